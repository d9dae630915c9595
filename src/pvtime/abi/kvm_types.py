# SPDX-License-Identifier: GPL-2.0-or-later
"""The arguments of KVM's requests: structures and their values.

Source: the kernel's include/uapi/linux/kvm.h and arch/arm64/include/uapi/asm/kvm.h.
"""

from __future__ import annotations

import ctypes
from ctypes import c_int16, c_uint8, c_uint16, c_uint32, c_uint64
from enum import IntEnum, IntFlag

from pvtime.abi.layout import Field, Register

__all__ = [
    "CoalescedZone",
    "CreateDevice",
    "DebugControl",
    "DeviceAttr",
    "EnableCap",
    "GuestDebug",
    "IpaSize",
    "IrqLevel",
    "IrqNumber",
    "IrqType",
    "KvmDirtyLog",
    "MemoryFlag",
    "MemoryRegion",
    "MpState",
    "MpStates",
    "OneReg",
    "RegList",
    "StatsDescriptor",
    "StatsHeader",
    "VcpuEvents",
    "VcpuFeature",
    "VcpuInit",
]


class MemoryRegion(ctypes.Structure):
    """struct kvm_userspace_memory_region: one memory slot. Size 0 deletes it."""

    _fields_ = (
        ("slot", c_uint32),
        ("flags", c_uint32),
        ("guest_phys_addr", c_uint64),
        ("memory_size", c_uint64),
        ("userspace_addr", c_uint64),
    )


class MemoryFlag(IntFlag):
    """``flags`` of a :class:`MemoryRegion`."""

    LOG_DIRTY_PAGES = 1 << 0
    READONLY = 1 << 1


class VcpuInit(ctypes.Structure):
    """struct kvm_vcpu_init: what the CPU is, and its :class:`VcpuFeature` bits."""

    _fields_ = (("target", c_uint32), ("features", c_uint32 * 7))


class VcpuFeature(IntEnum):
    """Bit numbers in ``features``."""

    POWER_OFF = 0
    """It starts when another vCPU calls PSCI CPU_ON for it."""
    PSCI_0_2 = 2
    """PSCI 0.2 and later, in the kernel."""


class OneReg(ctypes.Structure):
    """struct kvm_one_reg: a register's identifier, and where its value is."""

    _fields_ = (("id", c_uint64), ("addr", c_uint64))


class RegList(ctypes.Structure):
    """The head of struct kvm_reg_list: ``n`` identifiers of registers follow."""

    _fields_ = (("n", c_uint64),)


class StatsHeader(ctypes.Structure):
    """struct kvm_stats_header. Offsets are in bytes, in the file."""

    _fields_ = (
        ("flags", c_uint32),
        ("name_size", c_uint32),
        ("num_desc", c_uint32),
        ("id_offset", c_uint32),
        ("desc_offset", c_uint32),
        ("data_offset", c_uint32),
    )


class StatsDescriptor(ctypes.Structure):
    """The head of struct kvm_stats_desc: a name of ``name_size`` bytes follows."""

    _fields_ = (
        ("flags", c_uint32),
        ("exponent", c_int16),
        ("size", c_uint16),
        ("offset", c_uint32),
        ("bucket_size", c_uint32),
    )


class KvmDirtyLog(ctypes.Structure):
    """struct kvm_dirty_log: a slot, and where its bitmap is put, one bit for each of the host's pages."""

    _fields_ = (("slot", c_uint32), ("padding", c_uint32), ("dirty_bitmap", c_uint64))


class DeviceAttr(ctypes.Structure):
    """struct kvm_device_attr."""

    _fields_ = (("flags", c_uint32), ("group", c_uint32), ("attr", c_uint64), ("addr", c_uint64))


class CreateDevice(ctypes.Structure):
    """struct kvm_create_device; the kernel fills ``fd``."""

    _fields_ = (("type", c_uint32), ("fd", c_uint32), ("flags", c_uint32))


class IrqLevel(ctypes.Structure):
    """struct kvm_irq_level; ``irq`` is an :class:`IrqNumber`."""

    _fields_ = (("irq", c_uint32), ("level", c_uint32))


class IrqType(IntEnum):
    """Type of interrupt in an :class:`IrqNumber`."""

    CPU = 0
    SPI = 1
    PPI = 2


class IrqNumber(Register):
    """``irq`` of KVM_IRQ_LINE on arm64."""

    vcpu2 = Field(31, 28)
    type = Field(27, 24)
    vcpu = Field(23, 16)
    number = Field(15, 0)
    """The interrupt's INTID: an SPI counts from 32."""


class CoalescedZone(ctypes.Structure):
    """struct kvm_coalesced_mmio_zone: addresses whose writes are collected without an exit."""

    _fields_ = (("addr", c_uint64), ("size", c_uint32), ("pio", c_uint32))


class EnableCap(ctypes.Structure):
    """struct kvm_enable_cap."""

    _fields_ = (("cap", c_uint32), ("flags", c_uint32), ("args", c_uint64 * 4), ("pad", c_uint8 * 64))


class MpState(IntEnum):
    """Results of KVM_GET_MP_STATE on arm64."""

    RUNNABLE = 0
    STOPPED = 5
    """Off, by PSCI CPU_OFF or SYSTEM_OFF, or never switched on."""


class MpStates(ctypes.Structure):
    """struct kvm_mp_state."""

    _fields_ = (("mp_state", c_uint32),)


class DebugControl(IntFlag):
    """``control`` of a :class:`GuestDebug`."""

    ENABLE = 1 << 0
    SINGLESTEP = 1 << 1


class GuestDebug(ctypes.Structure):
    """struct kvm_guest_debug with arm64's breakpoint and watchpoint registers, 16 each of four kinds."""

    _fields_ = (("control", c_uint32), ("pad", c_uint32), ("registers", c_uint64 * 64))


class VcpuEvents(ctypes.Structure):
    """struct kvm_vcpu_events: exceptions that the guest is to take next."""

    _fields_ = (
        ("serror_pending", c_uint8),
        ("serror_has_esr", c_uint8),
        ("ext_dabt_pending", c_uint8),
        ("pad", c_uint8 * 5),
        ("serror_esr", c_uint64),
        ("reserved", c_uint32 * 12),
    )


class IpaSize(Register):
    """Machine type of KVM_CREATE_VM on arm64."""

    bits = Field(7, 0)
    """0 is 40 bits."""
