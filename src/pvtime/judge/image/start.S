/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Entry of the image: the arm64 Linux boot protocol (the kernel's Documentation/arch/arm64/booting.rst) on
 * the first CPU, PSCI CPU_ON (Arm DEN0022) on the others.
 */
#include "layout.h"

#define R_AARCH64_RELATIVE 1027
#define PE_PAGE 0x1000
#define PE_SECTOR 0x200
#define SCTLR_M (1 << 0)
#define SCTLR_C (1 << 2)

	.section .head, "ax"
	.globl _head
_head:
	ccmp	x18, #0, #0xd, pl	// "MZ": the same file is an EFI application (PE/COFF), and this does no harm
	b	first_cpu
	.quad	0			// text_offset
	.quad	_end - _head		// image_size
	.quad	0xa			// flags: little-endian, 4 KiB pages, anywhere in memory
	.quad	0, 0, 0
	.ascii	"ARM\x64"
	.long	pe_header - _head
	.globl	image_options
image_options:				// pvtime judge writes them here, as it can give every VMM a file
	.space	OPTIONS_SIZE

// PE/COFF (Microsoft's specification, and the kernel's arch/arm64/kernel/efi-header.S): one section has all.
	.align	3
pe_header:
	.ascii	"PE"
	.short	0
	.short	0xaa64			// arm64
	.short	1			// sections
	.long	0, 0, 0
	.short	section_table - optional_header
	.short	0x206			// executable, no line numbers, no debugging
optional_header:
	.short	0x20b			// PE32+
	.byte	2, 20
	.long	__bss_start - efi_entry	// code
	.long	0
	.long	0
	.long	efi_entry - _head
	.long	efi_entry - _head
	.quad	0			// base
	.long	PE_PAGE, PE_SECTOR
	.short	0, 0, 0, 0, 0, 0
	.long	0
	.long	_end - _head		// size in memory
	.long	PE_PAGE			// headers
	.long	0
	.short	10			// an EFI application
	.short	0
	.quad	0, 0, 0, 0
	.long	0
	.long	6			// directories: none is used
	.quad	0, 0, 0, 0, 0, 0
section_table:
	.ascii	".text\0\0\0"
	.long	_end - _head - PE_PAGE, PE_PAGE
	.long	__bss_start - _head - PE_PAGE, PE_PAGE
	.long	0, 0
	.short	0, 0
	.long	0xe0000020		// code that is read, written and executed
	.org	PE_PAGE
efi_entry:				// x0: the image's handle, x1: the system table
	b	efi_main

	.text
// Go on as the boot protocol has it, with MMU and caches off, the device tree in x0.
	.globl	enter_from_efi
enter_from_efi:
	mov	x19, x0
	msr	daifset, #0xf
	mrs	x1, CurrentEL
	cmp	x1, #8
	b.ne	1f
	mrs	x1, sctlr_el2
	bic	x1, x1, #SCTLR_M
	bic	x1, x1, #SCTLR_C
	msr	sctlr_el2, x1
	b	2f
1:	mrs	x1, sctlr_el1
	bic	x1, x1, #SCTLR_M
	bic	x1, x1, #SCTLR_C
	msr	sctlr_el1, x1
2:	isb
	ic	iallu
	dsb	nsh
	isb
	mov	x0, x19
	b	first_cpu

first_cpu:
	msr	daifset, #0xf
	mov	x19, x0			// the device tree
	bl	leave_el2
	adr	x20, _head
	adrp	x1, __rela_start
	add	x1, x1, :lo12:__rela_start
	adrp	x2, __rela_end
	add	x2, x2, :lo12:__rela_end
1:	cmp	x1, x2
	b.hs	2f
	ldp	x3, x4, [x1], #16	// where, type
	ldr	x5, [x1], #8		// addend
	cmp	w4, #R_AARCH64_RELATIVE
	b.ne	1b
	add	x5, x5, x20
	str	x5, [x20, x3]
	b	1b
2:	adrp	x1, __bss_start
	adrp	x2, _end
3:	stp	xzr, xzr, [x1], #16
	cmp	x1, x2
	b.lo	3b
	mov	x0, #0
	bl	set_up_cpu
	mov	x0, x19
	b	main

	.globl	secondary_cpu
secondary_cpu:				// x0: the CPU's index
	msr	daifset, #0xf
	mov	x19, x0
	bl	leave_el2
	mov	x0, x19
	bl	set_up_cpu
	bl	enable_mmu
	mov	x0, x19
	b	secondary_main

// Take the stack of CPU x0, and the vectors.
set_up_cpu:
	adrp	x1, stacks
	add	x1, x1, :lo12:stacks
	add	x0, x0, #1
	mov	x2, #STACK_SIZE
	madd	x1, x0, x2, x1
	mov	sp, x1
	adrp	x1, vectors
	add	x1, x1, :lo12:vectors
	msr	vbar_el1, x1
	isb
	ret

// Go on at EL1 where the CPU has started at EL2, as on an emulator with virtualization.
leave_el2:
	mrs	x1, CurrentEL
	cmp	x1, #8
	b.ne	1f
	mov	x1, #1 << 31		// HCR_EL2.RW
	msr	hcr_el2, x1
	mov	x1, #3			// CNTHCTL_EL2: EL1 may use counter and timer
	msr	cnthctl_el2, x1
	msr	cntvoff_el2, xzr
	mov	x1, #0x33ff		// CPTR_EL2: no traps
	msr	cptr_el2, x1
	mrs	x1, mpidr_el1
	msr	vmpidr_el2, x1
	ldr	x1, =0x30d00800		// SCTLR_EL1: only what is always 1
	msr	sctlr_el1, x1
	mov	x1, #0x3c5		// EL1h, all masked
	msr	spsr_el2, x1
	msr	elr_el2, x30
	eret
1:	ret

	.macro	vector
	.align	7
	stp	x0, x30, [sp, #-16]!
	bl	on_exception
	ldp	x0, x30, [sp], #16
	eret
	.endm

	.align	11
vectors:
	.rept	16
	vector
	.endr

// An access that may fault does so with its address in probing_at: it is skipped, and probe_failed is set.
on_exception:
	stp	x1, x2, [sp, #-16]!
	stp	x3, x4, [sp, #-16]!
	mrs	x1, elr_el1
	adr	x2, probe_load
	cmp	x1, x2
	b.eq	1f
	mrs	x0, esr_el1
	mrs	x2, far_el1
	b	report_exception
1:	add	x1, x1, #4
	msr	elr_el1, x1
	adrp	x2, probe_failed
	mov	w3, #1
	str	w3, [x2, :lo12:probe_failed]
	ldp	x3, x4, [sp], #16
	ldp	x1, x2, [sp], #16
	ret

// Load the 64-bit word at x0, exclusively; probe_failed tells that it faulted.
	.globl	load_exclusive
load_exclusive:
probe_load:
	ldxr	x0, [x0]
	clrex
	ret
	.ltorg
