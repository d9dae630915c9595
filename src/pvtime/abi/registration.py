# SPDX-License-Identifier: GPL-2.0-or-later
"""Stolen time in memory that the guest gives: our own calls, and x86's structure.

The calls are in the range of vendor-specific hypervisor services (DEN0028 section 6.1); no other hypervisor
is known to have these numbers. The structure is ``struct kvm_steal_time`` of the kernel's
arch/x86/include/uapi/asm/kvm_para.h.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum

from pvtime.abi.layout import Field, Register

__all__ = ["PREEMPTED", "KvmStealTime", "LptCall", "RegisterCall", "RegisterResult", "Registration"]

PREEMPTED = 1
"""``preempted``: the vCPU is ready to run and does not (KVM_VCPU_PREEMPTED)."""


class RegisterCall(IntEnum):
    """Function identifiers; only the HVC64 forms exist."""

    FEATURES = 0xC600_0020
    """X1: a function identifier. 0 where it is offered, else NOT_SUPPORTED."""
    SET = 0xC600_0021
    """X1: a :class:`Registration`; its answer is a :class:`RegisterResult`."""
    GET = 0xC600_0022
    """The calling vCPU's :class:`Registration`; 0: it has given none."""


class LptCall(IntEnum):
    """Function identifiers for the one structure of Live Physical Time (never merged) of a machine."""

    SET = 0xC600_0023
    """X1: a :class:`Registration`; its answer is a :class:`RegisterResult`."""
    GET = 0xC600_0024
    """The :class:`Registration`; 0: the guest has given none."""


class Registration(Register):
    """The value of x86's MSR_KVM_STEAL_TIME: a 64-byte-aligned address, and an enable bit."""

    lines = Field(63, 6)
    """The address in units of 64 bytes."""
    reserved = Field(5, 1)
    enable = Field(0)


class RegisterResult(IntEnum):
    """Answers to SET."""

    SUCCESS = 0
    NOT_SUPPORTED = -1
    INVALID_PARAMETER = -3
    """Misaligned, not in RAM, not writable, or another vCPU's."""
    IN_USE = -4
    """This vCPU's is enabled: it must be disabled before it is set elsewhere."""


class KvmStealTime(ctypes.LittleEndianStructure):
    """The structure. ``version`` is odd while it is being written."""

    _pack_ = 1
    _fields_ = (
        ("steal", ctypes.c_uint64),
        ("version", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("preempted", ctypes.c_uint8),
        ("u8_pad", ctypes.c_uint8 * 3),
        ("pad", ctypes.c_uint32 * 11),
    )
