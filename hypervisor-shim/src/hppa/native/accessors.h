/* Loads, stores and blocks of linear memory, in place of those that wasm2c writes.

   Not checked against the memory's size: a guest's are checked by the machine (it runs in virtual mode, and what is not
   its own is not mapped), a shim's are Rust's business as on every other machine. What the compiler of the module knows to
   be aligned is not checked either; should it be wrong, the machine traps. Where it did not know (the build adds `_loose`),
   what this machine cannot load at once goes the long way. Eight bytes need an alignment of four only, two loads being what
   they are anyway. */
#define PLACE(type, address) ((u8 *)((u32)(LINEAR_END) - (u32)sizeof(type) - (u32)(address)))
#define LOOSE(type, place) ((u32)(place) & (sizeof(type) == 8 ? 3 : sizeof(type) - 1))

typedef u8 load_u8 __attribute__((may_alias));
typedef s8 load_s8 __attribute__((may_alias));
typedef u16 load_u16 __attribute__((may_alias));
typedef s16 load_s16 __attribute__((may_alias));
typedef u32 load_u32 __attribute__((may_alias));
typedef s32 load_s32 __attribute__((may_alias));
typedef u64 load_u64 __attribute__((may_alias, aligned(4)));
typedef f32 load_f32 __attribute__((may_alias));
typedef f64 load_f64 __attribute__((may_alias, aligned(4)));

/* What is not aligned: loads of the words in which it lies, put together; stores of half words, with a byte before and
   behind where it begins at an odd address. No word is touched in which nothing of it lies. */
#define SLOW static __attribute__((noinline, cold))

SLOW u16 slow_load_2(const u8 *place) { return (u16)(place[0] << 8 | place[1]); }

/* The 32 bits from bit `shift` of a word on that goes on in another one, and no compiler finds the instruction for it. */
#define ACROSS(high, low, shift)                                                                                   \
  ({                                                                                                               \
    u32 across;                                                                                                    \
    asm("mtsar %3\n\tshrpw %1,%2,%%sar,%0" : "=r"(across) : "r"(high), "r"(low), "r"(32 - (shift)) : "SAR");      \
    across;                                                                                                        \
  })

SLOW u32 slow_load_4(const u8 *place) {
  const load_u32 *words = (const load_u32 *)((u32)place & ~3u);
  u32 shift = ((u32)place & 3) * 8;
  return ACROSS(words[0], words[1], shift);
}

SLOW u64 slow_load_8(const u8 *place) {
  const load_u32 *words = (const load_u32 *)((u32)place & ~3u);
  u32 shift = ((u32)place & 3) * 8, middle = words[1];
  return (u64)ACROSS(words[0], middle, shift) << 32 | ACROSS(middle, words[2], shift);
}

SLOW void slow_store_2(u8 *place, u16 value) { place[0] = (u8)(value >> 8), place[1] = (u8)value; }

SLOW void slow_store_4(u8 *place, u32 value) {
  if ((u32)place & 1) {
    place[0] = (u8)(value >> 24), *(load_u16 *)(place + 1) = (u16)(value >> 8), place[3] = (u8)value;
  } else {
    ((load_u16 *)place)[0] = (u16)(value >> 16), ((load_u16 *)place)[1] = (u16)value;
  }
}

SLOW void slow_store_8(u8 *place, u64 value) {
  u32 high = (u32)(value >> 32), low = (u32)value;
  if ((u32)place & 1) {
    load_u16 *halves = (load_u16 *)(place + 1);
    place[0] = (u8)(high >> 24), halves[0] = (u16)(high >> 8), halves[1] = (u16)(high << 8 | low >> 24);
    halves[2] = (u16)(low >> 8), place[7] = (u8)low;
  } else {
    load_u16 *halves = (load_u16 *)place;
    halves[0] = (u16)(high >> 16), halves[1] = (u16)high, halves[2] = (u16)(low >> 16), halves[3] = (u16)low;
  }
}

/* The same for every type; bytes are always aligned. */
#define SLOW_LOAD(type, place)                                                                         \
  ({                                                                                                   \
    type value = 0;                                                                                    \
    if (sizeof(type) == 2) { u16 bits = slow_load_2(place); memcpy(&value, &bits, sizeof value); }     \
    if (sizeof(type) == 4) { u32 bits = slow_load_4(place); memcpy(&value, &bits, sizeof value); }     \
    if (sizeof(type) == 8) { u64 bits = slow_load_8(place); memcpy(&value, &bits, sizeof value); }     \
    value;                                                                                             \
  })
#define SLOW_STORE(type, place, value)                                                                 \
  do {                                                                                                 \
    if (sizeof(type) == 2) { u16 bits; memcpy(&bits, &value, sizeof bits); slow_store_2(place, bits); } \
    if (sizeof(type) == 4) { u32 bits; memcpy(&bits, &value, sizeof bits); slow_store_4(place, bits); } \
    if (sizeof(type) == 8) { u64 bits; memcpy(&bits, &value, sizeof bits); slow_store_8(place, bits); } \
  } while (0)

#define DEFINE_LOAD(name, type, wide, result)                                                               \
  static inline __attribute__((always_inline)) result name(wasm_rt_memory_t *memory, u64 address) {         \
    return (result)(wide) * (const load_##type *)PLACE(type, address);                                      \
  }                                                                                                         \
  static inline __attribute__((always_inline)) result name##_loose(wasm_rt_memory_t *memory, u64 address) { \
    const u8 *place = PLACE(type, address);                                                                 \
    if (UNLIKELY(LOOSE(type, place))) return (result)(wide)SLOW_LOAD(type, place);                          \
    return (result)(wide) * (const load_##type *)place;                                                     \
  }

#define DEFINE_STORE(name, type, wide)                                                                                \
  static inline __attribute__((always_inline)) void name(wasm_rt_memory_t *memory, u64 address, wide value) {         \
    *(load_##type *)PLACE(type, address) = (type)value;                                                               \
  }                                                                                                                   \
  static inline __attribute__((always_inline)) void name##_loose(wasm_rt_memory_t *memory, u64 address, wide value) { \
    u8 *place = PLACE(type, address);                                                                                 \
    type narrow = (type)value;                                                                                        \
    if (UNLIKELY(LOOSE(type, place)))                                                                                 \
      SLOW_STORE(type, place, narrow);                                                                                \
    else                                                                                                              \
      *(load_##type *)place = narrow;                                                                                 \
  }

/* Puts `bytes` bytes into linear memory in reverse. */
static inline void load_data(u8 *to, const u8 *from, u32 bytes) {
  for (u32 index = 0; index < bytes; index++) to[bytes - 1 - index] = from[index];
}
#define LOAD_DATA(memory, address, from, bytes) load_data((u8 *)((u32)(LINEAR_END) - (u32)(address) - (u32)(bytes)), from, bytes)
