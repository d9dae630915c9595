/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Programs of a few instructions for x86 KVM, in 16-bit real mode, loaded at CODE; pvtime.probe.x86 has the same
 * numbers. HLT leaves KVM_RUN, as the VM has no interrupt controller in the kernel.
 */
        .code16

        /* Words of the host and the guest. */
        .equ    FAULTED, 0x500
        .equ    STOP, 0x508

/* Leave at once, and again whenever KVM_RUN is called. */
        .globl  _start
_start:
leave:
        hlt
        jmp     leave

/* Write EDX:EAX to the MSR of number ECX. */
        .balign 16, 0
write_msr:
        wrmsr
        hlt
        jmp     write_msr

/* Compute until STOP is set. */
        .balign 16, 0
spin:
        cmpb    $0, STOP
        je      spin
        hlt
        jmp     spin

/* Handle a general protection fault (vector 13). */
        .balign 16, 0
fault:
        movb    $1, FAULTED
        hlt
        jmp     fault
