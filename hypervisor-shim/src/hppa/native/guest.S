/* A guest's first instructions. The shim enters with the linear address of the boot information in r26 and an upward stack
   in r30. */
	.level 1.1
	.section .text.head,"ax"
	.globl	_start
_start:	ldil	L%$global$,%r27
	ldo	R%$global$(%r27),%r27
	ldo	64(%r30),%r30
	ldil	L%guest_main,%r1
	ldo	R%guest_main(%r1),%r1
	bv	%r0(%r1)
	copy	%r0,%r2
