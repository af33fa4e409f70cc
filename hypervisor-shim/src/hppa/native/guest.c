/* The guest's side: entry, hypercalls, and what translated code needs. Compiled together with the app's translated code;
   all of it runs at privilege 3. */

#define TABLE_ELEMENTS 8192

static wasm_rt_funcref_t table_elements[TABLE_ELEMENTS];
static Z_m_instance_t instance;

/* WebAssembly's own traps: the reason stands in the guest's report as part of the instruction. */
void wasm_rt_trap(wasm_rt_trap_t reason) {
  switch (reason) {
    case WASM_RT_TRAP_OOB: asm volatile("break 1,0");
    case WASM_RT_TRAP_INT_OVERFLOW: asm volatile("break 2,0");
    case WASM_RT_TRAP_DIV_BY_ZERO: asm volatile("break 3,0");
    case WASM_RT_TRAP_INVALID_CONVERSION: asm volatile("break 4,0");
    case WASM_RT_TRAP_UNREACHABLE: asm volatile("break 5,0");
    case WASM_RT_TRAP_CALL_INDIRECT: asm volatile("break 7,0");
    default: asm volatile("break 8,0");
  }
  __builtin_unreachable();
}

/* The runtime has a heap of its own in memory that the shim gives it. */
void wasm_rt_allocate_memory(wasm_rt_memory_t *memory, u32 initial_pages, u32 max_pages) { memory->pages = initial_pages; }
u32 wasm_rt_grow_memory(wasm_rt_memory_t *memory, u32 pages) { return ~0u; }
void wasm_rt_free_memory(wasm_rt_memory_t *memory) {}
void wasm_rt_allocate_funcref_table(wasm_rt_funcref_table_t *table, u32 elements, u32 max_elements) {
  if (elements > TABLE_ELEMENTS) wasm_rt_trap(WASM_RT_TRAP_EXHAUSTION);
  table->data = table_elements;
  table->size = table->max_size = elements;
}
void wasm_rt_free_funcref_table(wasm_rt_funcref_table_t *table) {}

/* The registers are those of hppa/context.rs. The shim leaves all but the result's as they were. */
u64 Z_guestZ_pollux_hypercall(struct Z_guest_instance_t *guest, u64 number, u64 first, u64 second, u64 third, u64 fourth) {
  register u32 r20 asm("r20") = (u32)number;
  register u32 r25 asm("r25") = (u32)(first >> 32), r26 asm("r26") = (u32)first;
  register u32 r23 asm("r23") = (u32)(second >> 32), r24 asm("r24") = (u32)second;
  register u32 r21 asm("r21") = (u32)(third >> 32), r22 asm("r22") = (u32)third;
  register u32 r19 asm("r19") = (u32)(fourth >> 32), r31 asm("r31") = (u32)fourth;
  register u32 r28 asm("r28"), r29 asm("r29");
  asm volatile("break 6,0x1ff"
               : "=r"(r28), "=r"(r29)
               : "r"(r20), "r"(r25), "r"(r26), "r"(r23), "r"(r24), "r"(r21), "r"(r22), "r"(r19), "r"(r31)
               : "memory");
  return (u64)r28 << 32 | r29;
}

/* Not a thing but an address: where the linear stack of Rust's code ends (the build command places it). */
extern u8 STACK_TOP[];

void guest_main(u32 boot_info) {
  Z_m_init_module();
  Z_m_instantiate(&instance, 0);
  instance.w2c___stack_pointer = (u32)STACK_TOP;
  Z_mZ_pollux_main(&instance, boot_info);
  wasm_rt_trap(WASM_RT_TRAP_UNREACHABLE);
}
