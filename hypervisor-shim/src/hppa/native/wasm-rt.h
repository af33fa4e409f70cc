/* What the C that wasm2c writes needs of its surroundings, in place of the header of that name that comes with wasm2c.

   There is no C library: the build takes the generated code's own #include lines out. A module's linear memory lies byte
   reversed in the machine's: what WebAssembly calls address A, n bytes wide, is at LINEAR_END - A - n. Loads and stores of
   one, two, four and eight bytes then need no swapping on a big-endian machine, and a block is a block, in reverse. */
#ifndef WASM_RT_H_
#define WASM_RT_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef LINEAR_END
#error "LINEAR_END: the address behind the module's linear memory"
#endif

#define UNLIKELY(x) __builtin_expect(!!(x), 0)
#define LIKELY(x) __builtin_expect(!!(x), 1)
#define WASM_RT_USE_STACK_DEPTH_COUNT 0
#define WASM_RT_MEMCHECK_SIGNAL_HANDLER 1
#define assert(x) ((void)0)
#define NAN __builtin_nan("")
#define INFINITY __builtin_inf()
#define isnan(x) __builtin_isnan(x)
#define signbit(x) __builtin_signbit(x)
#define memcpy __builtin_memcpy
#define sqrt __builtin_sqrt
#define sqrtf __builtin_sqrtf
#define fabs __builtin_fabs
#define fabsf __builtin_fabsf
#define copysign __builtin_copysign
#define copysignf __builtin_copysignf

void *memset(void *to, int value, size_t bytes);
void *memmove(void *to, const void *from, size_t bytes);
double floor(double), ceil(double), trunc(double), nearbyint(double);
float floorf(float), ceilf(float), truncf(float), nearbyintf(float);

typedef enum {
  WASM_RT_TRAP_NONE,
  WASM_RT_TRAP_OOB,
  WASM_RT_TRAP_INT_OVERFLOW,
  WASM_RT_TRAP_DIV_BY_ZERO,
  WASM_RT_TRAP_INVALID_CONVERSION,
  WASM_RT_TRAP_UNREACHABLE,
  WASM_RT_TRAP_CALL_INDIRECT,
  WASM_RT_TRAP_UNCAUGHT_EXCEPTION,
  WASM_RT_TRAP_EXHAUSTION,
} wasm_rt_trap_t;

typedef enum { WASM_RT_I32, WASM_RT_I64, WASM_RT_F32, WASM_RT_F64, WASM_RT_FUNCREF, WASM_RT_EXTERNREF } wasm_rt_type_t;

typedef void (*wasm_rt_function_ptr_t)(void);
typedef struct {
  uint32_t func_type;
  wasm_rt_function_ptr_t func;
  void *module_instance;
} wasm_rt_funcref_t;
static const wasm_rt_funcref_t wasm_rt_funcref_null_value = {0, NULL, NULL};
typedef void *wasm_rt_externref_t;
static const wasm_rt_externref_t wasm_rt_externref_null_value = NULL;

typedef struct {
  uint32_t pages;
} wasm_rt_memory_t;
typedef struct {
  wasm_rt_funcref_t *data;
  uint32_t max_size, size;
} wasm_rt_funcref_table_t;
typedef struct {
  wasm_rt_externref_t *data;
  uint32_t max_size, size;
} wasm_rt_externref_table_t;

/* Ends the program by a `break` whose number is the reason. */
__attribute__((noreturn)) void wasm_rt_trap(wasm_rt_trap_t reason);
uint32_t wasm_rt_register_func_type(uint32_t parameters, uint32_t results, ...);
void wasm_rt_allocate_memory(wasm_rt_memory_t *memory, uint32_t initial_pages, uint32_t max_pages);
uint32_t wasm_rt_grow_memory(wasm_rt_memory_t *memory, uint32_t pages);
void wasm_rt_free_memory(wasm_rt_memory_t *memory);
void wasm_rt_allocate_funcref_table(wasm_rt_funcref_table_t *table, uint32_t elements, uint32_t max_elements);
void wasm_rt_free_funcref_table(wasm_rt_funcref_table_t *table);
bool wasm_rt_is_initialized(void);

#endif
