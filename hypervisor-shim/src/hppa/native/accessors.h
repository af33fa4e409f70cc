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

#define DEFINE_LOAD(name, type, wide, result)                                                             \
  static inline __attribute__((always_inline)) result name(wasm_rt_memory_t *memory, u64 address) {       \
    return (result)(wide) * (const load_##type *)PLACE(type, address);                                    \
  }                                                                                                       \
  static __attribute__((noinline, cold)) type name##_slow(const u8 *place) {                              \
    type value;                                                                                           \
    memcpy(&value, place, sizeof value);                                                                  \
    return value;                                                                                         \
  }                                                                                                       \
  static inline __attribute__((always_inline)) result name##_loose(wasm_rt_memory_t *memory, u64 address) { \
    const u8 *place = PLACE(type, address);                                                               \
    if (UNLIKELY(LOOSE(type, place))) return (result)(wide)name##_slow(place);                            \
    return (result)(wide) * (const load_##type *)place;                                                   \
  }

#define DEFINE_STORE(name, type, wide)                                                                              \
  static inline __attribute__((always_inline)) void name(wasm_rt_memory_t *memory, u64 address, wide value) {       \
    *(load_##type *)PLACE(type, address) = (type)value;                                                             \
  }                                                                                                                 \
  static __attribute__((noinline, cold)) void name##_slow(u8 *place, type value) {                                  \
    memcpy(place, &value, sizeof value);                                                                            \
  }                                                                                                                 \
  static inline __attribute__((always_inline)) void name##_loose(wasm_rt_memory_t *memory, u64 address, wide value) { \
    u8 *place = PLACE(type, address);                                                                               \
    type narrow = (type)value;                                                                                      \
    if (UNLIKELY(LOOSE(type, place)))                                                                               \
      name##_slow(place, narrow);                                                                                   \
    else                                                                                                            \
      *(load_##type *)place = narrow;                                                                               \
  }

/* Puts `bytes` bytes into linear memory in reverse. */
static inline void load_data(u8 *to, const u8 *from, u32 bytes) {
  for (u32 index = 0; index < bytes; index++) to[bytes - 1 - index] = from[index];
}
#define LOAD_DATA(memory, address, from, bytes) load_data((u8 *)((u32)(LINEAR_END) - (u32)(address) - (u32)(bytes)), from, bytes)
