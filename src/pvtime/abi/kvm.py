# SPDX-License-Identifier: GPL-2.0-or-later
"""KVM's requests and capabilities, as far as pvtime uses them.

Source: the kernel's include/uapi/linux/kvm.h and Documentation/virt/kvm/api.rst. What the requests take is in
:mod:`pvtime.abi.kvm_types`, ``kvm_run`` in :mod:`pvtime.abi.kvm_run`, the attributes of devices in
:mod:`pvtime.abi.kvm_device`, the identifiers of registers in :mod:`pvtime.abi.kvm_reg`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from pvtime.abi.ioctl import io, ior, iow, iowr
from pvtime.abi.kvm_types import (
    CoalescedZone,
    CreateDevice,
    DeviceAttr,
    EnableCap,
    GuestDebug,
    IrqLevel,
    KvmDirtyLog,
    MemoryRegion,
    MpStates,
    OneReg,
    RegList,
    VcpuEvents,
    VcpuInit,
)

__all__ = ["API_VERSION", "KvmCap", "KvmIoctl"]

API_VERSION: Final = 12
"""Result of KVM_GET_API_VERSION, fixed since Linux 2.6.22."""


class KvmCap(IntEnum):
    """Arguments of KVM_CHECK_EXTENSION."""

    NR_MEMSLOTS = 10
    COALESCED_MMIO = 15
    """The answer is the page of the vCPU mapping that holds the ring; 0 is no."""
    SET_GUEST_DEBUG = 23
    MAX_VCPUS = 66
    ONE_REG = 70
    READONLY_MEM = 81
    DEVICE_CTRL = 89
    ARM_PSCI_0_2 = 102
    VCPU_ATTRIBUTES = 127
    IMMEDIATE_EXIT = 136
    ARM_VM_IPA_SIZE = 165
    """The answer is the limit, in bits."""
    ARM_NISV_TO_USER = 177
    """Accesses that the CPU does not describe exit; else KVM_RUN fails with ENOSYS."""
    ARM_INJECT_EXT_DABT = 178
    STEAL_TIME = 187
    BINARY_STATS_FD = 203


class KvmIoctl(IntEnum):
    """Request numbers, grouped by what they are made on."""

    # /dev/kvm
    GET_API_VERSION = io(0x00)
    CREATE_VM = io(0x01)
    CHECK_EXTENSION = io(0x03)
    GET_VCPU_MMAP_SIZE = io(0x04)
    # A VM
    CREATE_VCPU = io(0x41)
    GET_DIRTY_LOG = iow(0x42, KvmDirtyLog)
    SET_USER_MEMORY_REGION = iow(0x46, MemoryRegion)
    IRQ_LINE = iow(0x61, IrqLevel)
    REGISTER_COALESCED_MMIO = iow(0x67, CoalescedZone)
    ENABLE_CAP = iow(0xA3, EnableCap)
    CREATE_DEVICE = iowr(0xE0, CreateDevice)
    ARM_PREFERRED_TARGET = ior(0xAF, VcpuInit)
    # A vCPU
    RUN = io(0x80)
    GET_MP_STATE = ior(0x98, MpStates)
    SET_MP_STATE = iow(0x99, MpStates)
    SET_GUEST_DEBUG = iow(0x9B, GuestDebug)
    GET_VCPU_EVENTS = ior(0x9F, VcpuEvents)
    SET_VCPU_EVENTS = iow(0xA0, VcpuEvents)
    GET_ONE_REG = iow(0xAB, OneReg)
    SET_ONE_REG = iow(0xAC, OneReg)
    ARM_VCPU_INIT = iow(0xAE, VcpuInit)
    GET_REG_LIST = iowr(0xB0, RegList)
    GET_STATS_FD = io(0xCE)
    # A VM, vCPU or device
    SET_DEVICE_ATTR = iow(0xE1, DeviceAttr)
    GET_DEVICE_ATTR = iow(0xE2, DeviceAttr)
    HAS_DEVICE_ATTR = iow(0xE3, DeviceAttr)
