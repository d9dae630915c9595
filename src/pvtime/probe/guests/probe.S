// SPDX-License-Identifier: GPL-2.0-or-later
//
// The probe: a guest that does what its host tells it to. Each vCPU runs the same loop on a mailbox of its own.
//
// The host writes arguments and command, then the number of the command ("asked"). The vCPU carries it out on its
// CPU, writes the results and then the same number ("answered"). An exception ends the command: it is the answer.
//
// The code runs wherever it is put, and what it calls its own lies behind it: a probe that was copied elsewhere
// is a second kernel with mailboxes of its own. ../mailbox.py has the same numbers; a test compares them.
//
//	base		code and vectors
//	+ TABLES	translation tables, one of each level
//	+ MAILBOXES	one for each vCPU
//	+ SCRATCH	one instruction for each vCPU, and a return
//	+ SIZE		end
//
// X27 is the number of the last command, X28 the mailbox, X29 the scratch, X26 the state.

	.equ	TABLES,		0x2000
	.equ	MAILBOXES,	0x5000
	.equ	SCRATCH,	0x7000
	.equ	SIZE,		0x8000

// A mailbox: the host's half, then the guest's, each a cache line.
	.equ	MAILBOX,	128
	.equ	ASKED,		0
	.equ	COMMAND,	8
	.equ	ARGUMENTS,	16
	.equ	ANSWERED,	64
	.equ	FAULT,		72
	.equ	RESULTS,	80
	.equ	STATE,		112
	.equ	CONTEXT,	120

// State.
	.equ	POLLING,	1
	.equ	RESTING,	2

// Commands.
	.equ	CALL,		0
	.equ	LOAD,		1
	.equ	STORE,		2
	.equ	FILL,		3
	.equ	COPY,		4
	.equ	COMPARE,	5
	.equ	SPIN,		6
	.equ	REST,		7
	.equ	EXECUTE,	8
	.equ	JUMP,		9
	.equ	LPT_READ,	10
	.equ	LPT_WATCH,	11
	.equ	CALLS,		12

// The structure of Live Physical Time.
	.equ	SEQUENCE,	8
	.equ	SCALE_MULT,	24
	.equ	FRACBITS,	40

// The address space: what is where, and as what it is mapped.
	.equ	GIB,		1 << 30
	.equ	DEVICES,	0x09000000	// 2 MiB that are mapped page by page
	.equ	STOLEN_TIME,	0x090a0000	// 64 KiB
	.equ	TABLE,		3
	.equ	BLOCK,		1
	.equ	PAGE,		3
	.equ	NORMAL,		0x704		// accessed, inner shareable, attributes 1
	.equ	DEVICE,		0x60000000000400 // accessed, never executed, attributes 0
	.equ	ATTRIBUTES,	0xff00		// MAIR_EL1: 0 Device-nGnRnE, 1 Normal write-back
	.equ	TRANSLATION,	0x200803519	// TCR_EL1: 39 bits of 40, TTBR0 alone, write-back, inner shareable
	.equ	MMU_ON,		0x30d01805	// SCTLR_EL1: MMU and caches on, and the bits that are always one
	.equ	MMU_OFF,	0x30d01800	// neither MMU nor data cache

	.macro	constant register, value
	movz	\register, #((\value) & 0xffff)
	movk	\register, #(((\value) >> 16) & 0xffff), lsl #16
	movk	\register, #(((\value) >> 32) & 0xffff), lsl #32
	movk	\register, #(((\value) >> 48) & 0xffff), lsl #48
	.endm

// Write descriptors from X0 on, each \step bytes behind the one before. X5 to X7 are lost.
	.macro	descriptors count, first, step
	constant x5, \first
	constant x6, \step
	mov	x7, #\count
0:	str	x5, [x0], #8
	add	x5, x5, x6
	subs	x7, x7, #1
	b.ne	0b
	.endm

// X0 becomes the Live Physical Time by the structure at X8, X1 the counter that it comes from, X3 the sequence number.
// It starts again where that has changed, and X2 counts how often. X4 to X7 are lost. With a gate, the word at X9
// becomes 1 once the counter has been read the first time, and what follows waits until it is more than 1; X11 becomes
// the time that would have been read without a look at the sequence number.
	.macro	lpt_clock gate=0
0:	ldr	x3, [x8, #SEQUENCE]
	dmb	ishld
	isb
	mrs	x1, cntvct_el0
	.if	\gate
	cbnz	x2, 2f
	mov	x4, #1
	stlr	x4, [x9]
1:	ldar	x4, [x9]
	cmp	x4, #1
	b.eq	1b
2:
	.endif
	ldr	x4, [x8, #SCALE_MULT]
	ldr	w5, [x8, #FRACBITS]
	mul	x6, x4, x1
	umulh	x7, x4, x1
	lsr	x6, x6, x5
	neg	x5, x5
	lsl	x7, x7, x5
	orr	x0, x6, x7
	dmb	ishld
	ldr	x4, [x8, #SEQUENCE]
	.if	\gate
	cmp	x2, #0
	csel	x11, x0, x11, eq
	.endif
	cmp	x4, x3
	b.eq	3f
	add	x2, x2, #1
	b	0b
3:
	.endm

	.text
	.globl	_start
_start:
	b	boot			// entered as a kernel is: MMU off, X0 the device tree
	b	another			// entered by CPU_ON: X0 the context

// The tables are written around the caches, in which there may be something older.
boot:
	mov	x20, x0
	adr	x19, _start
	add	x21, x19, #TABLES
	mov	x0, x21
	mov	x1, #(MAILBOXES - TABLES)
	bl	clean
	mov	x0, x21
	add	x1, x21, #0x1000
	orr	x1, x1, #TABLE
	str	x1, [x0], #8
	descriptors 511, GIB + NORMAL + BLOCK, GIB
	add	x1, x1, #0x1000
	descriptors 72, DEVICE + BLOCK, GIB / 512
	str	x1, [x0], #8
	descriptors 439, DEVICES + GIB / 512 + DEVICE + BLOCK, GIB / 512
	descriptors 160, DEVICES + DEVICE + PAGE, 4096
	descriptors 16, STOLEN_TIME + NORMAL + PAGE, 4096
	descriptors 336, STOLEN_TIME + 0x10000 + DEVICE + PAGE, 4096
	mov	x0, x21
	mov	x1, #(MAILBOXES - TABLES)
	bl	clean
	b	ready

another:
	mov	x20, x0
	adr	x19, _start
ready:
	adr	x0, vectors
	msr	vbar_el1, x0
	mov	x0, #ATTRIBUTES
	msr	mair_el1, x0
	constant x0, TRANSLATION
	msr	tcr_el1, x0
	add	x0, x19, #TABLES
	msr	ttbr0_el1, x0
	tlbi	vmalle1
	ic	iallu
	dsb	nsh
	isb
	constant x0, MMU_ON
	msr	sctlr_el1, x0
	isb
	mrs	x0, mpidr_el1
	and	x1, x0, #0xf		// Aff0; 16 of them for each Aff1
	ubfx	x0, x0, #8, #8
	add	x0, x1, x0, lsl #4
	add	x28, x19, #MAILBOXES
	add	x28, x28, x0, lsl #7	// * MAILBOX
	add	x29, x19, #SCRATCH
	add	x29, x29, x0, lsl #6
	str	x20, [x28, #CONTEXT]
	mov	x26, #POLLING
	add	x0, x28, #STATE
	stlr	x26, [x0]
	ldr	x27, [x28, #ASKED]	// what ended an earlier life is no command for this one
	add	x0, x28, #ANSWERED
	stlr	x27, [x0]
	b	next

rest_on:
	wfi
next:
	ldar	x0, [x28]		// ASKED
	cmp	x0, x27
	b.ne	serve
	cmp	x26, #RESTING
	b.eq	rest_on
	b	next

serve:
	mov	x27, x0
	mov	x26, #POLLING
	str	x26, [x28, #STATE]
	ldr	x9, [x28, #COMMAND]
	ldp	x0, x1, [x28, #ARGUMENTS]
	ldp	x2, x3, [x28, #ARGUMENTS + 16]
	ldr	x4, [x28, #ARGUMENTS + 32]
	adr	x10, commands
	ldr	w9, [x10, x9, lsl #2]
	add	x10, x10, x9
	br	x10

done:
	mov	x4, #0
answer:
	stp	x0, x1, [x28, #RESULTS]
	stp	x2, x3, [x28, #RESULTS + 16]
	str	x4, [x28, #FAULT]
	add	x5, x28, #ANSWERED
	stlr	x27, [x5]
	b	next

commands:
	.word	call - commands
	.word	load - commands
	.word	store - commands
	.word	fill - commands
	.word	copy - commands
	.word	compare - commands
	.word	spin - commands
	.word	rest - commands
	.word	execute - commands
	.word	jump - commands
	.word	lpt_read - commands
	.word	lpt_watch - commands
	.word	calls - commands

// X0 to X3: the call's. Its results.
call:
	hvc	#0
	b	done

// X0: the function of a call without arguments. X1: how often it is made, once at least. The last one's results.
calls:
	mov	x20, x0			// no call changes X20 and X21
	mov	x21, x1
1:	mov	x0, x20
	hvc	#0
	subs	x21, x21, #1
	b.ne	1b
	b	done

// X0: address. X1: 1, 4 or 8 bytes. Result: what is there.
load:
	cmp	x1, #4
	b.lo	1f
	b.eq	2f
	ldr	x0, [x0]
	b	done
1:	ldrb	w0, [x0]
	b	done
2:	ldr	w0, [x0]
	b	done

// X0: address. X1: 1, 4 or 8 bytes. X2: value.
store:
	cmp	x1, #4
	b.lo	1f
	b.eq	2f
	str	x2, [x0]
	b	done
1:	strb	w2, [x0]
	b	done
2:	str	w2, [x0]
	b	done

// X0: address. X1: bytes. X2: the words that they become.
fill:
	add	x1, x0, x1
1:	cmp	x0, x1
	b.hs	done
	str	x2, [x0], #8
	b	1b

// X0: to. X1: from. X2: bytes.
copy:
	add	x2, x0, x2
1:	cmp	x0, x2
	b.hs	done
	ldr	x3, [x1], #8
	str	x3, [x0], #8
	b	1b

// X0: address. X1: bytes. X2: what each word should be. Results: address of the first that is not, and what it is;
// 0 where all are.
compare:
	add	x1, x0, x1
1:	cmp	x0, x1
	b.hs	2f
	ldr	x3, [x0], #8
	cmp	x3, x2
	b.eq	1b
	sub	x0, x0, #8
	mov	x1, x3
	b	done
2:	mov	x0, #0
	b	done

// X0: how often round.
spin:
	cbz	x0, done
1:	subs	x0, x0, #1
	b.ne	1b
	b	done

// From the answer to the next command the vCPU waits for interrupts; they stay masked.
rest:
	mov	x26, #RESTING
	str	x26, [x28, #STATE]
	b	done

// X0 to X3: the instruction's. X4: its code. Results: X0 to X3.
execute:
	constant x5, 0xd65f03c0		// ret
	stp	w4, w5, [x29]
	dc	cvau, x29
	dsb	ish
	ic	ivau, x29
	dsb	ish
	isb
	blr	x29
	b	done

// X0: where a second kernel is, X1: how many bytes of memory it finds there, X2: its X0. It is entered as the first
// one was, so that what it reads without the caches must be in memory.
jump:
	mov	x20, x0
	mov	x21, x2
	bl	clean
	str	xzr, [x28, #FAULT]
	add	x5, x28, #ANSWERED
	stlr	x27, [x5]
	constant x0, MMU_OFF
	msr	sctlr_el1, x0
	isb
	ic	iallu
	dsb	nsh
	isb
	mov	x0, x21
	mov	x1, #0
	mov	x2, #0
	mov	x3, #0
	br	x20

// X0: the structure. X1: the gate. Results: Live Physical Time, the counter, how often it was read again, and the time
// that the first reading would have been.
lpt_read:
	mov	x8, x0
	mov	x9, x1
	mov	x2, #0
	lpt_clock gate=1
	mov	x3, x11
	b	done

// X0: the structure. X1: a sequence number. Read the time over and over until a reading has that number. Results: Live
// Physical Time, the counter, how often a reading was repeated, and how many were before the one before.
lpt_watch:
	mov	x8, x0
	mov	x9, x1
	mov	x2, #0
	mov	x10, #0		// the last reading
	mov	x11, #0		// those that were before the one before
1:	lpt_clock
	cmp	x0, x10
	b.hs	2f
	add	x11, x11, #1
2:	mov	x10, x0
	cmp	x3, x9
	b.ne	1b
	mov	x3, x11
	b	done

// Clean and invalidate X1 bytes from X0 on. No cache has shorter lines than 16 bytes.
clean:
	add	x1, x0, x1
1:	dc	civac, x0
	add	x0, x0, #16
	cmp	x0, x1
	b.lo	1b
	dsb	sy
	ret

fault:
	mrs	x0, esr_el1
	mrs	x1, far_el1
	mrs	x2, elr_el1
	mov	x3, #0
	mov	x4, #1
	b	answer

	.balign	0x800, 0
vectors:
	.rept	16
	b	fault
	.balign	0x80, 0
	.endr
