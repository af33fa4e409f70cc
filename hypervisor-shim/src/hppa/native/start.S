/* The machine's first instructions, its trap vectors, and the ways into the guest and out of it.

   The shim runs at privilege 0 in physical mode, with interrupts off for good: it polls, and halts until the processor has
   an interrupt to offer (`halt` below). The guest runs at privilege 3 in virtual mode with interrupts on; whatever ends
   its run, the whole of its state goes to the context and `enter_guest` returns the number of the trap.

   The context is a structure of the shim's Rust (hppa/context.rs), so its words lie in reverse: word i at -4*(i+1) from
   the address behind it, and the floating-point registers, eight bytes each, below them. Both files know the layout. */
	.level 1.1

	.set	PSW_Q, 8
	.set	CONTEXT_VECTOR, 32	/* words 0 to 31: general registers, of which r0 counts for nothing */
	.set	CONTEXT_SAR, 33
	.set	CONTEXT_SPACES, 34	/* sr0 to sr4 */
	.set	CONTEXT_IASQ, 39	/* front and back */
	.set	CONTEXT_IAOQ, 41
	.set	CONTEXT_IPSW, 43
	.set	CONTEXT_IIR, 44
	.set	CONTEXT_ISR, 45
	.set	CONTEXT_IOR, 46
	.set	CONTEXT_FLOATS_BYTES, 192	/* bytes from the end of the context to that of fr0 */

	.set	SLICE_ENTERED, 0	/* what the interval timer showed on the way in, and on the way out */
	.set	SLICE_LEFT, 4
	.set	SLICE_SETTER, 8		/* where the instruction that sets the timer is executed */

	.macro	put register, word
	stw	\register,(-4*(\word+1))(%r1)
	.endm
	.macro	get word, register
	ldw	(-4*(\word+1))(%r1),\register
	.endm
	.macro	address symbol, register
	ldil	L%\symbol,\register
	ldo	R%\symbol(\register),\register
	.endm

	.section .text.head,"ax"
	.globl	_start
_start:	/* r24: initial ramdisk, r25: command line, as QEMU gives them. */
	rsm	1,%r0
	address	boot_command_line,%r1
	stw	%r25,0(%r1)
	mtsp	%r0,%sr0
	mtsp	%r0,%sr1
	mtsp	%r0,%sr2
	mtsp	%r0,%sr3
	mtsp	%r0,%sr4
	mtsp	%r0,%sr5
	mtsp	%r0,%sr6
	mtsp	%r0,%sr7
	ldi	0xc0,%r1		/* coprocessor 0 and 1: floating point */
	mtctl	%r1,%cr10
	address	vectors,%r1
	mtctl	%r1,%cr14
	mtctl	%r0,%cr15		/* no interrupt wanted yet, none left over */
	ldi	-1,%r1
	mtctl	%r1,%cr23
	mtctl	%r0,%cr26		/* a guest can read these two */
	mtctl	%r0,%cr27
	/* A trap tells where it happened only with Q on, which is switched on by returning. */
	rsm	PSW_Q,%r0
	mtctl	%r0,%cr17
	mtctl	%r0,%cr17
	address	1f,%r1
	mtctl	%r1,%cr18
	ldo	4(%r1),%r1
	mtctl	%r1,%cr18
	ldi	PSW_Q,%r1
	mtctl	%r1,%cr22
	rfi
	nop
1:	address	stack_bottom,%r30
	ldo	64(%r30),%r30
	address	$global$,%r27
	copy	%r0,%r3
	address	native_main,%r1
	ble	0(%sr4,%r1)
	copy	%r31,%r2
	b	power_off
	nop

	/* void power_off(void): an instruction of QEMU's own. */
	.globl	power_off
power_off:
	.word	0xfffdead0
	b	power_off
	nop

	/* void halt(void): sleeps until an interrupt that the mask lets through is pending. Interrupts stay off: QEMU wakes the
	   processor whether or not it will take the interrupt, so none is lost between a last look and the halt. */
	.globl	halt
halt:	or	%r10,%r10,%r10
	bv	%r0(%r2)
	nop

	.text
	.macro	vector number
	.align	32
	mtctl	%r1,%cr28
	mtctl	%r8,%cr29
	address	leave,%r1
	bv	%r0(%r1)
	ldi	\number,%r8
	.endm
	.macro	miss number, handler
	.align	32
	mtctl	%r1,%cr28
	mtctl	%r8,%cr29
	mtctl	%r9,%cr30
	address	\handler,%r1
	bv	%r0(%r1)
	mtctl	%r16,%cr31
	.endm

	.align	4096
	.globl	vectors
vectors:
	.irp	number,0,1,2,3,4,5
	vector	\number
	.endr
	miss	6,miss_code
	.irp	number,7,8,9,10,11,12,13,14
	vector	\number
	.endr
	miss	15,miss_data
	.irp	number,16,17,18,19
	vector	\number
	.endr
	miss	20,first_write
	.irp	number,21,22,23,24,25,26,27,28,29,30,31
	vector	\number
	.endr

	/* Translations. cr24 has the address of the guest's map: its lowest address, how many pages it has, what is taken off
	   an address to make it a physical one, a word of its own for the next paragraph, and one word of rights a page (0: not
	   mapped), as `idtlbp` wants them. r1, r8, r9 and r16 have shadows, from which `rfir` restores them. The guest's
	   addresses have the space registers' number 6, which it cannot write to.

	   These handlers run between instructions of the guest, and when they do is no business of an epoch's: so each adds the
	   number of its instructions to the map's fourth word, by which `hppa/count.rs` takes them off again. `handled` is that
	   ending; it checks the number, which counts the seven of `miss` too, and all of a handler's lie on one straight way. */
	.set	MISS_INSTRUCTIONS, 7
	.macro	handled handler, instructions
	mfctl	%cr24,%r8
	ldw	12(%r8),%r9
	ldo	\instructions(%r9),%r9
	stw	%r9,12(%r8)
	rfir
	.if	. - \handler - 4 * (\instructions - MISS_INSTRUCTIONS)
	.error	"the handler has another number of instructions than it says"
	.endif
	nop
	.endm
	.align	64
miss_code:
	mfctl	%cr17,%r8
	comib,<>,n 0,%r8,not_code
	mfctl	%cr18,%r1
	mfctl	%cr24,%r8
	ldw	0(%r8),%r9
	sub	%r1,%r9,%r9
	extru	%r9,19,20,%r9
	ldw	4(%r8),%r16
	comb,<<=,n %r16,%r9,not_code
	sh2add	%r9,%r8,%r9
	ldw	16(%r9),%r16
	comib,=,n 0,%r16,not_code
	ldw	8(%r8),%r9
	sub	%r1,%r9,%r8
	extru	%r8,19,20,%r8
	zdep	%r8,26,20,%r8
	depi	0,31,12,%r1
	iitlba	%r8,(%sr0,%r1)
	iitlbp	%r16,(%sr0,%r1)
	handled	miss_code, 31
not_code:
	mfctl	%cr30,%r9
	mfctl	%cr31,%r16
	b	leave
	ldi	6,%r8

	.align	64
miss_data:
	mfctl	%cr20,%r8
	comib,<>,n 0,%r8,not_data
	mfctl	%cr21,%r1
	mfctl	%cr24,%r8
	ldw	0(%r8),%r9
	sub	%r1,%r9,%r9
	extru	%r9,19,20,%r9
	ldw	4(%r8),%r16
	comb,<<=,n %r16,%r9,not_data
	sh2add	%r9,%r8,%r9
	ldw	16(%r9),%r16
	comib,=,n 0,%r16,not_data
	ldw	8(%r8),%r9
	sub	%r1,%r9,%r8
	extru	%r8,19,20,%r8
	zdep	%r8,26,20,%r8
	depi	0,31,12,%r1
	idtlba	%r8,(%r1)
	idtlbp	%r16,(%r1)
	handled	miss_data, 31
not_data:
	mfctl	%cr30,%r9
	mfctl	%cr31,%r16
	b	leave
	ldi	15,%r8

	/* The first write to a page since it was last looked at: notes it in the map's dirty bit. */
	.align	64
first_write:
	mfctl	%cr21,%r1
	mfctl	%cr24,%r8
	ldw	0(%r8),%r9
	sub	%r1,%r9,%r9
	extru	%r9,19,20,%r9
	sh2add	%r9,%r8,%r9
	ldw	16(%r9),%r16
	depi	1,3,1,%r16
	stw	%r16,16(%r9)
	ldw	8(%r8),%r9
	sub	%r1,%r9,%r8
	extru	%r8,19,20,%r8
	zdep	%r8,26,20,%r8
	depi	0,31,12,%r1
	idtlba	%r8,(%r1)
	idtlbp	%r16,(%r1)
	handled	first_write, 28

	/* void set_alarm(u32 ticks): the interval timer interrupts when it reaches this. */
	.globl	set_alarm
set_alarm:
	address	slice,%r1
	ldw	SLICE_SETTER(%r1),%r1
	bv	%r0(%r1)
	b	1f			/* in the delay slot: the setter's one instruction, then on from here */
1:	bv	%r0(%r2)
	nop

	/* u32 enter_guest(void *behind_context, u32 ticks, u32 delay): returns the number of the trap that ended the guest's
	   run. Where instructions are counted, the timer is set to interrupt `ticks` steps from the stamp that is taken, and
	   `delay` turns of two instructions are waited for before the guest goes on: the timer cannot be set to a time that is
	   near. 0 ticks: the timer stays as it is. From the stamp on everything lies on one straight way. */
	.align	64
	.globl	enter_guest
enter_guest:
	stw	%r2,-20(%r30)
	.set	at,0
	.irp	register,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,27
	stw	%r\register,at(%r30)
	.set	at,at+4
	.endr
	ldo	72(%r30),%r1
	.irp	register,12,13,14,15,16,17,18,19,20,21
	fstds,ma %fr\register,8(%r1)
	.endr
	address	shim_stack,%r1
	stw	%r30,0(%r1)
	address	guest_context,%r1
	stw	%r26,0(%r1)
	rsm	PSW_Q,%r0
	copy	%r26,%r1
	get	CONTEXT_IASQ,%r8
	mtctl	%r8,%cr17
	get	CONTEXT_IASQ+1,%r8
	mtctl	%r8,%cr17
	get	CONTEXT_IAOQ,%r8
	mtctl	%r8,%cr18
	get	CONTEXT_IAOQ+1,%r8
	mtctl	%r8,%cr18
	get	CONTEXT_IPSW,%r8
	mtctl	%r8,%cr22
	get	CONTEXT_SAR,%r8
	mtctl	%r8,%cr11
	.irp	space,0,1,2,3,4
	get	CONTEXT_SPACES+\space,%r8
	mtsp	%r8,%sr\space
	.endr
	ldo	-CONTEXT_FLOATS_BYTES(%r1),%r8
	.irp	register,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
	fldds,mb -8(%r8),%fr\register
	.endr
	comib,=	0,%r25,4f
	nop
	address	slice,%r9
	ldw	SLICE_SETTER(%r9),%r16
	mfctl	%cr16,%r8
	stw	%r8,SLICE_ENTERED(%r9)
	addl	%r8,%r25,%r26
	bv	%r0(%r16)
	b	2f			/* as in set_alarm */
2:	zdepi	-1,0,1,%r26		/* an alarm of before, which the new one has replaced, counts no more */
	mtctl	%r26,%cr23
	comib,=	0,%r24,4f
	nop
3:	addib,<> -1,%r24,3b
	nop
4:
	.irp	register,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,1
	get	\register,%r\register
	.endr
	rfi
	nop

	/* Out of the guest: the trap's number in r8, r1 and r8 themselves in cr28 and cr29. A trap of the shim's own ends the
	   machine with a report. */
	.align	64
leave:	mfctl	%cr18,%r1
	extru	%r1,31,2,%r1
	comib,=,n 0,%r1,trap_of_the_shim
	address	guest_context,%r1
	ldw	0(%r1),%r1
	put	%r8,CONTEXT_VECTOR
	.irp	register,2,3,4,5,6,7,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
	put	%r\register,\register
	.endr
	mfctl	%cr16,%r8
	address	slice,%r9
	stw	%r8,SLICE_LEFT(%r9)
	mfctl	%cr28,%r8
	put	%r8,1
	mfctl	%cr29,%r8
	put	%r8,8
	mfctl	%cr17,%r8
	put	%r8,CONTEXT_IASQ
	mfctl	%cr18,%r8
	put	%r8,CONTEXT_IAOQ
	mtctl	%r0,%cr17
	mtctl	%r0,%cr18
	mfctl	%cr17,%r8
	put	%r8,CONTEXT_IASQ+1
	mfctl	%cr18,%r8
	put	%r8,CONTEXT_IAOQ+1
	mfctl	%cr22,%r8
	put	%r8,CONTEXT_IPSW
	mfctl	%cr19,%r8
	put	%r8,CONTEXT_IIR
	mfctl	%cr20,%r8
	put	%r8,CONTEXT_ISR
	mfctl	%cr21,%r8
	put	%r8,CONTEXT_IOR
	mfctl	%cr11,%r8
	put	%r8,CONTEXT_SAR
	.irp	space,0,1,2,3,4
	mfsp	%sr\space,%r8
	put	%r8,CONTEXT_SPACES+\space
	.endr
	ldo	-CONTEXT_FLOATS_BYTES(%r1),%r8
	.irp	register,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
	fstds,mb %fr\register,-8(%r8)
	.endr
	get	CONTEXT_VECTOR,%r28
	/* The shim's own again. */
	address	fresh_status,%r8
	fldds	0(%r8),%fr0
	address	shim_stack,%r30
	ldw	0(%r30),%r30
	ldo	72(%r30),%r1
	.irp	register,12,13,14,15,16,17,18,19,20,21
	fldds,ma 8(%r1),%fr\register
	.endr
	.set	at,0
	.irp	register,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,27
	ldw	at(%r30),%r\register
	.set	at,at+4
	.endr
	ldw	-20(%r30),%r2
	mtctl	%r0,%cr17
	mtctl	%r0,%cr17
	depi	0,31,2,%r2
	mtctl	%r2,%cr18
	ldo	4(%r2),%r1
	mtctl	%r1,%cr18
	ldi	PSW_Q,%r1
	mtctl	%r1,%cr22
	rfi
	nop

trap_of_the_shim:
	copy	%r8,%r26
	mfctl	%cr18,%r25
	mfctl	%cr21,%r24
	mfctl	%cr19,%r23
	address	trap_stack,%r30
	ldo	64(%r30),%r30
	address	$global$,%r27
	address	native_trap,%r1
	ble	0(%sr4,%r1)
	copy	%r31,%r2
	b	power_off
	nop

	/* Sets the interval timer. Under -icount QEMU 7.2 ends with an error where it meets this instruction in memory, because
	   it writes to the timer in the middle of translated code; what it fetches from a device it executes one at a time, and
	   then may. So `slice` can name a copy (hppa/count.rs). */
	.globl	timer_setter
timer_setter:
	mtctl	%r26,%cr16

	.section .rodata
	.align	8
fresh_status:
	.word	0,0

	.data
	.align	4
	.globl	slice
slice:	.word	0, 0, timer_setter

	.bss
	.align	8
	.globl	boot_command_line
boot_command_line: .space 4
shim_stack: .space 4
guest_context: .space 4
	.align	64
stack_bottom: .space 262144
trap_stack: .space 16384
