# SPDX-License-Identifier: GPL-2.0-or-later
"""Device types, groups and attributes of KVM on arm64.

Source: the kernel's Documentation/virt/kvm/devices/{vcpu,arm-vgic,arm-vgic-v3}.rst and
arch/arm64/include/uapi/asm/kvm.h.
"""

from __future__ import annotations

from enum import IntEnum

from pvtime.abi.layout import Field, Register

__all__ = ["DeviceType", "PvTimeAttr", "RedistRegion", "VcpuGroup", "VgicAddr", "VgicCtrl", "VgicGroup"]


class DeviceType(IntEnum):
    """Device types of KVM_CREATE_DEVICE."""

    VGIC_V2 = 5
    VGIC_V3 = 7


class VgicGroup(IntEnum):
    """Attribute groups of both interrupt controllers."""

    ADDR = 0
    DIST_REGS = 1
    NR_IRQS = 3
    CTRL = 4
    REDIST_REGS = 5
    """This group and the next two: GICv3 alone; :mod:`pvtime.abi.kvm_vgic` has their attributes."""
    CPU_SYSREGS = 6
    LEVEL_INFO = 7


class VgicAddr(IntEnum):
    """Attributes of :attr:`VgicGroup.ADDR`; each is a u64 by pointer."""

    V2_DIST = 0
    V2_CPU = 1
    V3_DIST = 2
    V3_REDIST = 3
    """One redistributor of 128 KiB for each vCPU, contiguous."""
    V3_REDIST_REGION = 5
    """Some of the redistributors (:class:`RedistRegion`); from Linux 4.18 on."""


class RedistRegion(Register):
    """The value of :attr:`VgicAddr.V3_REDIST_REGION`."""

    count = Field(63, 52)
    """Redistributors in the region."""
    base = Field(51, 16)
    """Its address, in units of 64 KiB."""
    index = Field(11, 0)
    """0 for the first, and one more for each."""


class VgicCtrl(IntEnum):
    """Attributes of :attr:`VgicGroup.CTRL`."""

    INIT = 0


class VcpuGroup(IntEnum):
    """Attribute groups of a vCPU."""

    PVTIME_CTRL = 2


class PvTimeAttr(IntEnum):
    """Attributes of :attr:`VcpuGroup.PVTIME_CTRL`."""

    IPA = 0
    """A u64 by pointer; all ones until it is set."""
