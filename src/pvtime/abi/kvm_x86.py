# SPDX-License-Identifier: GPL-2.0-or-later
"""KVM's requests, structures and exits that x86 alone has, as far as pvtime uses them.

Source: the kernel's arch/x86/include/uapi/asm/{kvm,kvm_para}.h, include/uapi/linux/kvm.h and
Documentation/virt/kvm/x86/msr.rst.
"""

from __future__ import annotations

import ctypes
from ctypes import c_uint8, c_uint16, c_uint32, c_uint64
from enum import IntEnum
from typing import Final

from pvtime.abi.ioctl import io, ior, iow, iowr
from pvtime.abi.layout import Field, Register

__all__ = [
    "MSR_KVM_STEAL_TIME",
    "DescriptorTable",
    "MsrEntry",
    "MsrList",
    "Rflags",
    "Segment",
    "SegmentRegisters",
    "X86Exit",
    "X86Ioctl",
    "X86Registers",
]

MSR_KVM_STEAL_TIME: Final = 0x4B56_4D03
"""The MSR that a guest writes a :class:`~pvtime.abi.registration.Registration` to."""


class X86Registers(ctypes.Structure):
    """struct kvm_regs."""

    _fields_ = (
        ("rax", c_uint64),
        ("rbx", c_uint64),
        ("rcx", c_uint64),
        ("rdx", c_uint64),
        ("rsi", c_uint64),
        ("rdi", c_uint64),
        ("rsp", c_uint64),
        ("rbp", c_uint64),
        ("r8_r15", c_uint64 * 8),
        ("rip", c_uint64),
        ("rflags", c_uint64),
    )


class Rflags(Register):
    """``rflags`` of :class:`X86Registers`."""

    always_1 = Field(1)


class Segment(ctypes.Structure):
    """struct kvm_segment."""

    _fields_ = (
        ("base", c_uint64),
        ("limit", c_uint32),
        ("selector", c_uint16),
        ("type", c_uint8),
        ("present", c_uint8),
        ("dpl", c_uint8),
        ("db", c_uint8),
        ("s", c_uint8),
        ("l", c_uint8),
        ("g", c_uint8),
        ("avl", c_uint8),
        ("unusable", c_uint8),
        ("padding", c_uint8),
    )


class DescriptorTable(ctypes.Structure):
    """struct kvm_dtable."""

    _fields_ = (("base", c_uint64), ("limit", c_uint16), ("padding", c_uint16 * 3))


class SegmentRegisters(ctypes.Structure):
    """struct kvm_sregs: segments, descriptor tables and control registers."""

    _fields_ = (
        ("cs", Segment),
        ("ds", Segment),
        ("es", Segment),
        ("fs", Segment),
        ("gs", Segment),
        ("ss", Segment),
        ("tr", Segment),
        ("ldt", Segment),
        ("gdt", DescriptorTable),
        ("idt", DescriptorTable),
        ("cr0", c_uint64),
        ("cr2", c_uint64),
        ("cr3", c_uint64),
        ("cr4", c_uint64),
        ("cr8", c_uint64),
        ("efer", c_uint64),
        ("apic_base", c_uint64),
        ("interrupt_bitmap", c_uint64 * 4),
    )


class MsrEntry(ctypes.Structure):
    """struct kvm_msr_entry: a model-specific register and its value."""

    _fields_ = (("index", c_uint32), ("reserved", c_uint32), ("data", c_uint64))


class MsrList(ctypes.Structure):
    """struct kvm_msrs with one entry; its requests carry the size of the head alone."""

    _fields_ = (("nmsrs", c_uint32), ("pad", c_uint32), ("entry", MsrEntry))


class _MsrsHead(ctypes.Structure):
    """struct kvm_msrs without entries."""

    _fields_ = (("nmsrs", c_uint32), ("pad", c_uint32))


class X86Exit(IntEnum):
    """Why KVM_RUN returned, of a vCPU that executes a few instructions in real mode."""

    HLT = 5
    """The guest halts, and no interrupt controller in the kernel could wake it."""
    SHUTDOWN = 8
    """A triple fault."""


class X86Ioctl(IntEnum):
    """Request numbers, grouped by what they are made on."""

    # A VM
    SET_TSS_ADDR = io(0x47)
    """The argument is the address of three pages that Intel's CPUs may need for real mode."""
    # A vCPU
    GET_REGS = ior(0x81, X86Registers)
    SET_REGS = iow(0x82, X86Registers)
    GET_SREGS = ior(0x83, SegmentRegisters)
    SET_SREGS = iow(0x84, SegmentRegisters)
    GET_MSRS = iowr(0x88, _MsrsHead)
    """This and the next answer with the number of registers that KVM has read or set."""
    SET_MSRS = iow(0x89, _MsrsHead)
