/* What the shim's Rust asks of the machine (hppa/native.rs), compiled together with the shim's translated code. */
#include "native.h"

#define TABLE_ELEMENTS 8192
#define PAGE_BYTES 4096

static wasm_rt_funcref_t table_elements[TABLE_ELEMENTS];
static Z_m_instance_t instance;

/* The guest's translations, as start.S knows them; for the most guest memory there may be. */
#define MOST_PAGES (0x40000000u / PAGE_BYTES)
static struct {
  u32 low, pages, distance, handled, rights[MOST_PAGES];
} map;

#define READ_CONTROL(number) ({ u32 value; asm volatile("mfctl %%cr" #number ",%0" : "=r"(value)); value; })
#define WRITE_CONTROL(number, value) asm volatile("mtctl %0,%%cr" #number : : "r"(value) : "memory")

void wasm_rt_trap(wasm_rt_trap_t reason) {
  console_text("shim: trap of its own code, reason ");
  console_hex(reason);
  console_byte('\n');
  power_off();
}

/* All of linear memory is there from the beginning. */
void wasm_rt_allocate_memory(wasm_rt_memory_t *memory, u32 initial_pages, u32 max_pages) { memory->pages = initial_pages; }
u32 wasm_rt_grow_memory(wasm_rt_memory_t *memory, u32 pages) { return ~0u; }
void wasm_rt_free_memory(wasm_rt_memory_t *memory) {}
void wasm_rt_allocate_funcref_table(wasm_rt_funcref_table_t *table, u32 elements, u32 max_elements) {
  if (elements > TABLE_ELEMENTS) wasm_rt_trap(WASM_RT_TRAP_EXHAUSTION);
  table->data = table_elements;
  table->size = table->max_size = elements;
}
void wasm_rt_free_funcref_table(wasm_rt_funcref_table_t *table) {}

typedef struct Z_machine_instance_t *machine;

void Z_machineZ_console(machine m, u32 text, u32 bytes) {
  for (u32 index = 0; index < bytes; index++) console_byte(*(const char *)PLACE(u8, text + index));
}

u32 Z_machineZ_command_line(machine m, u32 text, u32 bytes) {
  const char *from = (const char *)boot_command_line;
  u32 length = 0;
  if (!from) return 0;
  for (; length < bytes && from[length]; length++) *PLACE(u8, text + length) = (u8)from[length];
  return length;
}

void Z_machineZ_power_off(machine m) { power_off(); }

u32 Z_machineZ_ticks(machine m) { return READ_CONTROL(16); }
void Z_machineZ_set_alarm(machine m, u32 ticks) { set_alarm(ticks); }

void Z_machineZ_set_timer_at(machine m, u32 place) {
  *(volatile u32 *)place = timer_setter;
  slice.setter = place;
}

void Z_machineZ_sleep(machine m) { halt(); }
void Z_machineZ_set_interrupt_mask(machine m, u32 mask) { WRITE_CONTROL(15, mask); }

u32 Z_machineZ_take_interrupts(machine m) {
  u32 pending = READ_CONTROL(23);
  WRITE_CONTROL(23, pending);
  return pending;
}

/* The context begins in linear memory where it ends in the machine's. */
u32 Z_machineZ_run_guest(machine m, u32 context) { return enter_guest((void *)((u32)LINEAR_END - context), 0, 0); }

u64 Z_machineZ_run_counted(machine m, u32 context, u32 ticks, u32 delay) {
  map.handled = 0;
  u32 trap = enter_guest((void *)((u32)LINEAR_END - context), ticks, delay);
  return (u64)(slice.left - slice.entered - map.handled) << 32 | trap;
}

void Z_machineZ_map_guest(machine m, u32 low, u32 pages, u32 distance) {
  map.low = low, map.pages = pages < MOST_PAGES ? pages : MOST_PAGES, map.distance = distance;
  WRITE_CONTROL(24, (u32)&map);
}

u32 Z_machineZ_rights(machine m, u32 page) { return page < map.pages ? map.rights[page] : 0; }

void Z_machineZ_set_rights(machine m, u32 page, u32 rights) {
  if (page >= map.pages) return;
  map.rights[page] = rights;
  asm volatile("pdtlb %%r0(%0)" : : "r"(map.low + page * PAGE_BYTES) : "memory");
}

u32 Z_machineZ_load_u8(machine m, u32 address) { return *(volatile u8 *)address; }
u32 Z_machineZ_load_u16(machine m, u32 address) { return *(volatile u16 *)address; }
u32 Z_machineZ_load_u32(machine m, u32 address) { return *(volatile u32 *)address; }
void Z_machineZ_store_u8(machine m, u32 address, u32 value) { *(volatile u8 *)address = (u8)value; }
void Z_machineZ_store_u16(machine m, u32 address, u32 value) { *(volatile u16 *)address = (u16)value; }
void Z_machineZ_store_u32(machine m, u32 address, u32 value) { *(volatile u32 *)address = value; }
void Z_machineZ_barrier(machine m) { asm volatile("sync" : : : "memory"); }

static inline u32 reversed(u32 word) { return __builtin_bswap32(word); }

/* Between memory in order and linear memory, which is in reverse. A word is loaded, turned round and stored. */
void Z_machineZ_copy_in(machine m, u32 to, u32 from, u32 bytes) {
  const u8 *source = (const u8 *)from;
  u8 *behind = (u8 *)((u32)LINEAR_END - to);
  if ((((u32)source | (u32)behind) & 3) == 0)
    for (; bytes >= 4; bytes -= 4, source += 4) behind -= 4, *(load_u32 *)behind = reversed(*(const load_u32 *)source);
  while (bytes--) *--behind = *source++;
}

void Z_machineZ_copy_out(machine m, u32 to, u32 from, u32 bytes) {
  u8 *place = (u8 *)to;
  const u8 *behind = (const u8 *)((u32)LINEAR_END - from);
  if ((((u32)place | (u32)behind) & 3) == 0)
    for (; bytes >= 4; bytes -= 4, place += 4) behind -= 4, *(load_u32 *)place = reversed(*(const load_u32 *)behind);
  while (bytes--) *place++ = *--behind;
}

void native_main(void) {
  Z_m_init_module();
  Z_m_instantiate(&instance, 0);
  Z_mZ_shim_main(&instance);
}
