/* Blocks of linear memory, in place of those that wasm2c writes, which on a big-endian machine are wrong. A copy in reversed
   memory is a copy from the other end, so memmove stays memmove. */
static inline void memory_fill(wasm_rt_memory_t *memory, u32 to, u32 value, u32 bytes) {
  memset((u8 *)((u32)(LINEAR_END)-to - bytes), (int)value, bytes);
}

static inline void memory_copy(wasm_rt_memory_t *to_memory, const wasm_rt_memory_t *from_memory, u32 to, u32 from,
                               u32 bytes) {
  memmove((u8 *)((u32)(LINEAR_END)-to - bytes), (const u8 *)((u32)(LINEAR_END)-from - bytes), bytes);
}

static inline void memory_init(wasm_rt_memory_t *memory, const u8 *from, u32 from_bytes, u32 to, u32 offset, u32 bytes) {
  if (UNLIKELY(offset + (u64)bytes > from_bytes)) TRAP(OOB);
  LOAD_DATA(*memory, to, from + offset, bytes);
}
