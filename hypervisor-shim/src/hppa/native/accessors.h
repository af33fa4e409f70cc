/* Loads, stores and blocks of linear memory, in place of those that wasm2c writes.

   Not checked against the memory's size: a guest's are checked by the machine (it runs in virtual mode, and what is not
   its own is not mapped), a shim's are Rust's business as on every other machine. What this machine cannot load at once
   because it is not aligned goes the long way; eight bytes need an alignment of four only, two loads being what they are
   anyway. */
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

#define DEFINE_LOAD(name, type, wide, result)                                                        \
  static __attribute__((noinline, cold)) type name##_loose(const u8 *place) {                        \
    type value;                                                                                      \
    memcpy(&value, place, sizeof value);                                                             \
    return value;                                                                                    \
  }                                                                                                  \
  static inline __attribute__((always_inline)) result name(wasm_rt_memory_t *memory, u64 address) {  \
    const u8 *place = PLACE(type, address);                                                          \
    if (UNLIKELY(LOOSE(type, place))) return (result)(wide)name##_loose(place);                      \
    return (result)(wide) * (const load_##type *)place;                                              \
  }

#define DEFINE_STORE(name, type, wide)                                                                        \
  static __attribute__((noinline, cold)) void name##_loose(u8 *place, type value) {                           \
    memcpy(place, &value, sizeof value);                                                                      \
  }                                                                                                           \
  static inline __attribute__((always_inline)) void name(wasm_rt_memory_t *memory, u64 address, wide value) { \
    u8 *place = PLACE(type, address);                                                                         \
    type narrow = (type)value;                                                                                \
    if (UNLIKELY(LOOSE(type, place)))                                                                         \
      name##_loose(place, narrow);                                                                            \
    else                                                                                                      \
      *(load_##type *)place = narrow;                                                                         \
  }

/* Puts `bytes` bytes into linear memory in reverse. */
static inline void load_data(u8 *to, const u8 *from, u32 bytes) {
  for (u32 index = 0; index < bytes; index++) to[bytes - 1 - index] = from[index];
}
#define LOAD_DATA(memory, address, from, bytes) load_data((u8 *)((u32)(LINEAR_END) - (u32)(address) - (u32)(bytes)), from, bytes)
