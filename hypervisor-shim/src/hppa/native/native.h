/* What the assembly and the C of the platform layer have of each other. */
#ifndef NATIVE_H_
#define NATIVE_H_

#include <stdint.h>

/* console.c: the first serial port, for debugging and for programs without a shim. */
void console_byte(char byte);
void console_text(const char *text);
void console_hex(uint32_t value);

/* start.S */
extern uint32_t boot_command_line;
__attribute__((noreturn)) void power_off(void);
void halt(void);
uint32_t enter_guest(void *behind_context, uint32_t ticks, uint32_t delay);
void set_alarm(uint32_t ticks);
extern const uint32_t timer_setter;
extern struct {
  uint32_t entered, left, setter;
} slice;

/* What the assembly calls. */
void native_main(void);
void native_trap(uint32_t vector, uint32_t instruction_address, uint32_t address, uint32_t instruction);

#endif
