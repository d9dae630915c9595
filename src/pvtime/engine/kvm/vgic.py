# SPDX-License-Identifier: GPL-2.0-or-later
"""The interrupt controller in the kernel: GICv3, or GICv2 where the host has only that.

A GICv3 can be saved and restored, register by register (:mod:`pvtime.abi.kvm_vgic`).

Source: the kernel's Documentation/virt/kvm/devices/arm-vgic-v3.rst and arm-vgic.rst.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from pvtime.abi.kvm_device import DeviceType, VgicAddr, VgicCtrl, VgicGroup
from pvtime.abi.kvm_vgic import ICC_CTLR_EL1, IccCtlr, VgicRegister, cpu_registers, distributor_registers
from pvtime.engine.kvm.ioctl import DeviceFd, KvmError
from pvtime.engine.kvm.vm_fd import VmFd
from pvtime.errors import EngineError, SavedStateError
from pvtime.machine.devicetree import GicFlavour
from pvtime.machine.layout import GIC_CPU_INTERFACE, GIC_DISTRIBUTOR, GIC_REDISTRIBUTORS
from pvtime.schema import U64

__all__ = [
    "IRQS",
    "VgicState",
    "create_vgic",
    "initialise_vgic",
    "read_vgic",
    "refuse_unsavable",
    "write_vgic",
]

IRQS: Final = 64
"""SGIs, PPIs and 32 SPIs: the least that KVM takes (a multiple of 32, from 64)."""

ADDRESSES: Final = {
    DeviceType.VGIC_V3: {VgicAddr.V3_DIST: GIC_DISTRIBUTOR, VgicAddr.V3_REDIST: GIC_REDISTRIBUTORS},
    DeviceType.VGIC_V2: {VgicAddr.V2_DIST: GIC_DISTRIBUTOR, VgicAddr.V2_CPU: GIC_CPU_INTERFACE},
}

FLAVOURS: Final = {DeviceType.VGIC_V3: GicFlavour.GICV3, DeviceType.VGIC_V2: GicFlavour.GICV2}


def create_vgic(vm: VmFd) -> tuple[DeviceFd, GicFlavour]:
    """Create the newest interrupt controller that this host's KVM has, at its address in the memory map.

    :raises EngineError: this host's KVM has none.
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


def refuse_unsavable(vm: VmFd) -> None:
    """Check that a VM's controller can be saved.

    :raises EngineError: this host has a GICv2, whose state pvtime does not know.
    """
    if not vm.can_create(DeviceType.VGIC_V3):
        raise EngineError(
            "this host has a GICv2; the kvm engine saves and restores machines with a GICv3 alone"
        )


def initialise_vgic(vgic: DeviceFd) -> None:
    """Complete the controller, after all vCPUs were created."""
    vgic.command(VgicGroup.CTRL, VgicCtrl.INIT)


Values: TypeAlias = dict[str, U64]
"""By the registers' names."""


@dataclass(frozen=True)
class VgicState:
    """A GICv3."""

    distributor: Values
    cpus: list[Values]
    """For each vCPU, its redistributor and CPU interface."""


def read_vgic(vgic: DeviceFd, mpidrs: Iterable[int]) -> VgicState:
    """Return the controller's state, while no vCPU is in KVM_RUN.

    :param mpidrs: the vCPUs' affinity fields.
    """
    return VgicState(
        distributor=_read(vgic, 0, distributor_registers(IRQS)),
        cpus=[_read(vgic, mpidr, cpu_registers(_control(vgic, mpidr))) for mpidr in mpidrs],
    )


def write_vgic(vgic: DeviceFd, mpidrs: list[int], state: VgicState) -> None:
    """Restore a controller that was initialised and never used.

    :raises SavedStateError: this host's controller is another one; the message names the register.
    """
    if len(state.cpus) != len(mpidrs):
        raise SavedStateError(
            f"cpus of the saved interrupt controller: it has {len(state.cpus)} CPUs, "
            f"this machine has {len(mpidrs)}"
        )
    _write(vgic, 0, distributor_registers(IRQS), state.distributor)
    for mpidr, values in zip(mpidrs, state.cpus, strict=True):
        _write(vgic, mpidr, cpu_registers(_control(vgic, mpidr)), values)


def _control(vgic: DeviceFd, mpidr: int) -> IccCtlr:
    return IccCtlr(vgic.get_u64(ICC_CTLR_EL1.group, ICC_CTLR_EL1.attr(mpidr)))


def _read(vgic: DeviceFd, mpidr: int, registers: Iterable[VgicRegister]) -> Values:
    return {
        register.name: (vgic.get_u64 if register.is_wide else vgic.get_u32)(
            register.group, register.attr(mpidr)
        )
        for register in registers
    }


def _write(vgic: DeviceFd, mpidr: int, registers: Iterable[VgicRegister], values: Values) -> None:
    known = list(registers)
    if different := {register.name for register in known} ^ values.keys():
        owner = "this host" if min(different) not in values else "the saved machine"
        raise SavedStateError(
            f"the interrupt controllers differ: only that of {owner} has {min(different)[:40]!r}"
        )
    for register in known:
        value = values[register.name]
        if not register.is_wide and value >= 2**32:
            raise SavedStateError(
                f"the saved interrupt controller has an impossible {register.name}: {value:#x}"
            )
        try:
            (vgic.set_u64 if register.is_wide else vgic.set_u32)(register.group, register.attr(mpidr), value)
        except KvmError as error:
            raise SavedStateError(
                f"the saved {register.name} ({value:#x}) cannot be restored: {error}"
            ) from error
