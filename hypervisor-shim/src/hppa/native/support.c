/* What every translated module needs beside its accessors: memory functions, function types, the few functions of C's
   mathematics library that WebAssembly has instructions for. */
#include <stdarg.h>
#include "wasm-rt.h"
#undef memcpy

typedef uint8_t u8;
typedef uint32_t u32;
typedef u32 word __attribute__((may_alias));

/* Words in pairs where both sides are aligned alike; a translator gains nothing from more. */
static void copy_up(u8 *to, const u8 *from, u32 bytes) {
  if ((((u32)to ^ (u32)from) & 3) == 0) {
    for (; bytes && ((u32)to & 3); bytes--) *to++ = *from++;
    for (; bytes >= 16; bytes -= 16, to += 16, from += 16) {
      u32 a = ((const word *)from)[0], b = ((const word *)from)[1], c = ((const word *)from)[2], d = ((const word *)from)[3];
      ((word *)to)[0] = a, ((word *)to)[1] = b, ((word *)to)[2] = c, ((word *)to)[3] = d;
    }
    for (; bytes >= 4; bytes -= 4, to += 4, from += 4) *(word *)to = *(const word *)from;
  } else if (bytes >= 16) {
    /* Whole words to aligned places, each of two that were read: `shrpw` puts them together. */
    for (; (u32)to & 3; bytes--) *to++ = *from++;
    u32 shift = ((u32)from & 3) * 8;
    const word *source = (const word *)((u32)from & ~3u);
    u32 high = *source;
    for (; bytes >= 8; bytes -= 4, to += 4, from += 4) {
      u32 low = *++source;
      *(word *)to = high << shift | low >> (32 - shift);
      high = low;
    }
  }
  while (bytes--) *to++ = *from++;
}

static void copy_down(u8 *to, const u8 *from, u32 bytes) {
  to += bytes, from += bytes;
  if ((((u32)to ^ (u32)from) & 3) == 0) {
    for (; bytes && ((u32)to & 3); bytes--) *--to = *--from;
    for (; bytes >= 4; bytes -= 4) to -= 4, from -= 4, *(word *)to = *(const word *)from;
  }
  while (bytes--) *--to = *--from;
}

void *(memmove)(void *to, const void *from, size_t bytes) {
  if ((u32)to - (u32)from >= bytes)
    copy_up(to, from, bytes);
  else
    copy_down(to, from, bytes);
  return to;
}

void *(memcpy)(void *to, const void *from, size_t bytes) {
  copy_up(to, from, bytes);
  return to;
}

void *(memset)(void *place, int value, size_t bytes) {
  u8 *to = place;
  u32 filled = (u8)value * 0x01010101u;
  for (; bytes && ((u32)to & 3); bytes--) *to++ = (u8)value;
  for (; bytes >= 16; bytes -= 16, to += 16)
    ((word *)to)[0] = filled, ((word *)to)[1] = filled, ((word *)to)[2] = filled, ((word *)to)[3] = filled;
  while (bytes--) *to++ = (u8)value;
  return place;
}

/* A function type is its number of parameters and results and what they are. */
#define MAX_TYPES 512
#define MAX_VALUES 30
static struct {
  u8 parameters, results, values[MAX_VALUES];
} types[MAX_TYPES];
static u32 type_count;

u32 wasm_rt_register_func_type(u32 parameters, u32 results, ...) {
  u8 values[MAX_VALUES] = {0};
  u32 count = parameters + results, index, value;
  va_list arguments;
  if (count > MAX_VALUES || type_count == MAX_TYPES) wasm_rt_trap(WASM_RT_TRAP_EXHAUSTION);
  va_start(arguments, results);
  for (value = 0; value < count; value++) values[value] = (u8)va_arg(arguments, int);
  va_end(arguments);
  for (index = 0; index < type_count; index++) {
    bool same = types[index].parameters == parameters && types[index].results == results;
    for (value = 0; same && value < count; value++) same = types[index].values[value] == values[value];
    if (same) return index + 1;
  }
  types[index].parameters = (u8)parameters, types[index].results = (u8)results;
  for (value = 0; value < count; value++) types[index].values[value] = values[value];
  return ++type_count;
}

bool wasm_rt_is_initialized(void) { return true; }

/* Above this a number has no fraction. */
#define WHOLE 4503599627370496.0

double nearbyint(double x) {
  double size = fabs(x);
  if (!(size < WHOLE)) return x;
  /* Adding and taking away rounds to even, as the machine does; the sum must not be optimised away. */
  volatile double sum = size + WHOLE;
  return copysign(sum - WHOLE, x);
}
double trunc(double x) {
  double rounded = nearbyint(x);
  return fabs(rounded) > fabs(x) ? copysign(fabs(rounded) - 1, x) : rounded;
}
double floor(double x) {
  double rounded = nearbyint(x);
  return rounded > x ? rounded - 1 : rounded;
}
double ceil(double x) {
  double rounded = nearbyint(x);
  return rounded < x ? copysign(rounded + 1, x) : rounded;
}
/* A float's are a double's: every float is a double, and whole numbers of that size are floats. */
float nearbyintf(float x) { return (float)nearbyint(x); }
float truncf(float x) { return (float)trunc(x); }
float floorf(float x) { return (float)floor(x); }
float ceilf(float x) { return (float)ceil(x); }
