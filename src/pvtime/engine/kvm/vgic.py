# SPDX-License-Identifier: GPL-2.0-or-later
"""The interrupt controller in the kernel: GICv3, or GICv2 where the host has only that.

Source: the kernel's Documentation/virt/kvm/devices/arm-vgic-v3.rst and arm-vgic.rst.
"""

from __future__ import annotations

import errno
from typing import Final

from pvtime.abi.kvm_device import DeviceType, VgicAddr, VgicCtrl, VgicGroup
from pvtime.engine.kvm.device import Device
from pvtime.engine.kvm.ioctl import KvmError
from pvtime.engine.kvm.vm import Vm
from pvtime.errors import EngineError
from pvtime.machine.devicetree import GicFlavour
from pvtime.machine.layout import GIC_CPU_INTERFACE, GIC_DISTRIBUTOR, GIC_REDISTRIBUTORS

__all__ = ["IRQS", "create_vgic", "initialise_vgic"]

IRQS: Final = 64
"""SGIs, PPIs and 32 SPIs: the least that KVM takes (a multiple of 32, from 64)."""

ADDRESSES: Final = {
    DeviceType.VGIC_V3: {VgicAddr.V3_DIST: GIC_DISTRIBUTOR, VgicAddr.V3_REDIST: GIC_REDISTRIBUTORS},
    DeviceType.VGIC_V2: {VgicAddr.V2_DIST: GIC_DISTRIBUTOR, VgicAddr.V2_CPU: GIC_CPU_INTERFACE},
}

FLAVOURS: Final = {DeviceType.VGIC_V3: GicFlavour.GICV3, DeviceType.VGIC_V2: GicFlavour.GICV2}


def create_vgic(vm: Vm) -> tuple[Device, GicFlavour]:
    """Make the newest interrupt controller that this host's KVM has, at its place in the memory map.

    :raises EngineError: it has none.
    """
    for kind, addresses in ADDRESSES.items():
        try:
            device = vm.create_device(kind)
        except KvmError as error:
            if error.errno == errno.ENODEV:
                continue
            raise
        for attribute, region in addresses.items():
            device.set_u64(VgicGroup.ADDR, attribute, region.base)
        device.set_u32(VgicGroup.NR_IRQS, 0, IRQS)
        return device, FLAVOURS[kind]
    raise EngineError("this host's KVM has neither a GICv3 nor a GICv2 for guests")


def initialise_vgic(device: Device) -> None:
    """Complete it, once every vCPU is there."""
    device.command(VgicGroup.CTRL, VgicCtrl.INIT)
