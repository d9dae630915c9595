# SPDX-License-Identifier: GPL-2.0-or-later
"""The interrupt controller in the kernel: GICv3, or GICv2 where the host has only that.

A GICv3 can be saved and restored, register by register (:mod:`pvtime.abi.kvm_vgic`).

Source: the kernel's Documentation/virt/kvm/devices/arm-vgic-v3.rst and arm-vgic.rst.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

from pvtime.abi.gicv3 import REDISTRIBUTOR_SIZE, IccCtlr
from pvtime.abi.kvm_device import DeviceType, RedistRegion, VgicAddr, VgicCtrl, VgicGroup
from pvtime.abi.kvm_vgic import ICC_CTLR_EL1, VgicRegister, cpu_registers, distributor_registers
from pvtime.engine.kvm.ioctl import DeviceFd, KvmError
from pvtime.engine.kvm.vm_fd import VmFd
from pvtime.errors import EngineError, SavedStateError
from pvtime.machine.devicetree import GicFlavour
from pvtime.machine.gic import GicVersion
from pvtime.machine.layout import GIC_CPU_INTERFACE, GIC_DISTRIBUTOR, Region
from pvtime.records import dataclass
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

FLAVOURS: Final = {DeviceType.VGIC_V3: GicFlavour.GICV3, DeviceType.VGIC_V2: GicFlavour.GICV2}

KINDS: Final = {
    GicVersion.AUTO: (DeviceType.VGIC_V3, DeviceType.VGIC_V2),
    GicVersion.V3: (DeviceType.VGIC_V3,),
    GicVersion.V2: (DeviceType.VGIC_V2,),
}
"""Devices to try, in this order, by the version that a user asks for."""


def create_vgic(
    vm: VmFd, version: GicVersion, redistributors: Sequence[Region]
) -> tuple[DeviceFd, GicFlavour]:
    """Create the interrupt controller at its addresses in the memory map.

    :param version: the user's choice; AUTO is the newest that this host's KVM has.
    :param redistributors: regions of a GICv3's redistributors, in the order of the vCPUs.
    :raises EngineError: this host's KVM has none of this version.
    """
    for kind in KINDS[version]:
        try:
            device = vm.create_device(kind)
        except KvmError as error:
            if error.errno == errno.ENODEV:
                continue
            raise
        if kind is DeviceType.VGIC_V2:
            device.set_u64(VgicGroup.ADDR, VgicAddr.V2_DIST, GIC_DISTRIBUTOR.base)
            device.set_u64(VgicGroup.ADDR, VgicAddr.V2_CPU, GIC_CPU_INTERFACE.base)
        else:
            device.set_u64(VgicGroup.ADDR, VgicAddr.V3_DIST, GIC_DISTRIBUTOR.base)
            _place_redistributors(device, redistributors)
        device.set_u32(VgicGroup.NR_IRQS, 0, IRQS)
        return device, FLAVOURS[kind]
    if version is GicVersion.AUTO:
        raise EngineError("this host's KVM has neither a GICv3 nor a GICv2 for guests")
    raise EngineError(f"this host's KVM has no GIC{version.value} for guests: take the other version")


def _place_redistributors(vgic: DeviceFd, regions: Sequence[Region]) -> None:
    if len(regions) == 1:
        vgic.set_u64(VgicGroup.ADDR, VgicAddr.V3_REDIST, regions[0].base)
        return
    for index, region in enumerate(regions):
        value = RedistRegion.of(count=region.size // REDISTRIBUTOR_SIZE, base=region.base >> 16, index=index)
        vgic.set_u64(VgicGroup.ADDR, VgicAddr.V3_REDIST_REGION, value)


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
