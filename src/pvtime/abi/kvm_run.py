# SPDX-License-Identifier: GPL-2.0-or-later
"""struct kvm_run, the page that a vCPU and its VMM share, and the ring of collected writes.

Source: the kernel's include/uapi/linux/kvm.h.
"""

from __future__ import annotations

import ctypes
from ctypes import c_uint8, c_uint16, c_uint32, c_uint64
from enum import IntEnum

__all__ = [
    "CoalescedMmio",
    "CoalescedRing",
    "DebugExit",
    "ExitReason",
    "FailEntry",
    "InternalError",
    "KvmRun",
    "Mmio",
    "SystemEvent",
    "SystemEventType",
]


class ExitReason(IntEnum):
    """Why KVM_RUN returned; those that an arm64 vCPU can have."""

    UNKNOWN = 0
    EXCEPTION = 1
    HYPERCALL = 3
    DEBUG = 4
    MMIO = 6
    SHUTDOWN = 8
    FAIL_ENTRY = 9
    INTR = 10
    INTERNAL_ERROR = 17
    SYSTEM_EVENT = 24
    ARM_NISV = 28
    DIRTY_RING_FULL = 31
    MEMORY_FAULT = 39


class SystemEventType(IntEnum):
    """``type`` of a :class:`SystemEvent`."""

    SHUTDOWN = 1
    RESET = 2
    CRASH = 3


class Mmio(ctypes.Structure):
    """KVM_EXIT_MMIO: an access that no memory slot and no device in the kernel answers."""

    _fields_ = (
        ("phys_addr", c_uint64),
        ("data", c_uint64),  # u8[8], the guest's bytes in their order: one little-endian word
        ("len", c_uint32),
        ("is_write", c_uint8),
    )


class SystemEvent(ctypes.Structure):
    """KVM_EXIT_SYSTEM_EVENT."""

    _fields_ = (("type", c_uint32), ("ndata", c_uint32), ("data", c_uint64 * 16))


class InternalError(ctypes.Structure):
    """KVM_EXIT_INTERNAL_ERROR."""

    _fields_ = (("suberror", c_uint32), ("ndata", c_uint32), ("data", c_uint64 * 16))


class FailEntry(ctypes.Structure):
    """KVM_EXIT_FAIL_ENTRY."""

    _fields_ = (("hardware_entry_failure_reason", c_uint64), ("cpu", c_uint32))


class DebugExit(ctypes.Structure):
    """KVM_EXIT_DEBUG on arm64 (struct kvm_debug_exit_arch)."""

    _fields_ = (("hsr", c_uint32), ("hsr_high", c_uint32), ("far", c_uint64))


class _Detail(ctypes.Union):
    _fields_ = (
        ("mmio", Mmio),
        ("system_event", SystemEvent),
        ("internal", InternalError),
        ("fail_entry", FailEntry),
        ("debug", DebugExit),
        ("padding", c_uint8 * 256),
    )


class KvmRun(ctypes.Structure):
    """struct kvm_run up to the synchronised registers, which arm64 does not have."""

    _anonymous_ = ("detail",)
    _fields_ = (
        ("request_interrupt_window", c_uint8),
        ("immediate_exit", c_uint8),
        ("padding1", c_uint8 * 6),
        ("exit_reason", c_uint32),
        ("ready_for_interrupt_injection", c_uint8),
        ("if_flag", c_uint8),
        ("flags", c_uint16),
        ("cr8", c_uint64),
        ("apic_base", c_uint64),
        ("detail", _Detail),
    )


class CoalescedMmio(ctypes.Structure):
    """struct kvm_coalesced_mmio: one collected write."""

    _fields_ = (
        ("phys_addr", c_uint64),
        ("len", c_uint32),
        ("pio", c_uint32),
        ("data", c_uint64),  # u8[8], as in Mmio
    )


class CoalescedRing(ctypes.Structure):
    """The head of struct kvm_coalesced_mmio_ring: the entries follow, to the end of the page.

    The kernel moves ``last``, user space ``first``; equal is empty.
    """

    _fields_ = (("first", c_uint32), ("last", c_uint32))
