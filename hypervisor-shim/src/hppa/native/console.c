/* The first serial port, and what is said on it when nothing else works. */
#include "native.h"

#define LASI_UART 0xffd05800u
#define LINE_STATUS 5
#define TRANSMIT_EMPTY 0x20

static inline volatile uint8_t *port(uint32_t offset) { return (volatile uint8_t *)(LASI_UART + offset); }

void console_byte(char byte) {
  while (!(*port(LINE_STATUS) & TRANSMIT_EMPTY)) {
  }
  *port(0) = (uint8_t)byte;
}

void console_text(const char *text) {
  while (*text) console_byte(*text++);
}

void console_hex(uint32_t value) {
  for (int shift = 28; shift >= 0; shift -= 4) console_byte("0123456789abcdef"[value >> shift & 15]);
}

/* A trap of what runs at privilege 0. The machine ends when it returns. */
void native_trap(uint32_t vector, uint32_t instruction_address, uint32_t address, uint32_t instruction) {
  console_text("trap ");
  console_hex(vector);
  console_text(" at ");
  console_hex(instruction_address);
  console_text(", address ");
  console_hex(address);
  console_text(", instruction ");
  console_hex(instruction);
  console_byte('\n');
}
