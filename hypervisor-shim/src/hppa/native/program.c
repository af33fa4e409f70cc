/* A program without a shim, at privilege 0: a translated module whose exported function `program` runs once, with the
   console to write to and 32 MiB of linear memory. It is compiled with the module's code before it. */
#include "native.h"

#define LINEAR_PAGES ((u32)(LINEAR_END - 0x01000000u) / 65536)
#define TABLE_ELEMENTS 8192

static wasm_rt_funcref_t table_elements[TABLE_ELEMENTS];
static Z_m_instance_t instance;

void wasm_rt_trap(wasm_rt_trap_t reason) {
  console_text("trap of the program: ");
  console_hex(reason);
  console_byte('\n');
  power_off();
}

void wasm_rt_allocate_memory(wasm_rt_memory_t *memory, u32 initial_pages, u32 max_pages) {
  if (initial_pages > LINEAR_PAGES) wasm_rt_trap(WASM_RT_TRAP_OOB);
  memory->pages = initial_pages;
}

u32 wasm_rt_grow_memory(wasm_rt_memory_t *memory, u32 pages) {
  u32 before = memory->pages;
  if (pages > LINEAR_PAGES - before) return ~0u;
  memory->pages += pages;
  return before;
}

void wasm_rt_free_memory(wasm_rt_memory_t *memory) {}

void wasm_rt_allocate_funcref_table(wasm_rt_funcref_table_t *table, u32 elements, u32 max_elements) {
  if (elements > TABLE_ELEMENTS) wasm_rt_trap(WASM_RT_TRAP_EXHAUSTION);
  table->data = table_elements;
  table->size = table->max_size = elements;
}

void wasm_rt_free_funcref_table(wasm_rt_funcref_table_t *table) {}

void Z_machineZ_write(struct Z_machine_instance_t *machine, u32 address, u32 bytes) {
  for (u32 index = 0; index < bytes; index++) console_byte(*(const char *)PLACE(u8, address + index));
}

void native_main(void) {
  Z_m_init_module();
  Z_m_instantiate(&instance, 0);
  Z_mZ_program(&instance);
  power_off();
}
