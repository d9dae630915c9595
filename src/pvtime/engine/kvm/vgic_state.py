# SPDX-License-Identifier: GPL-2.0-or-later
"""The GICv3 in the kernel, saved and restored register by register (:mod:`pvtime.abi.kvm_vgic`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pvtime.abi.kvm_vgic import ICC_CTLR_EL1, IccCtlr, VgicRegister, cpu_registers, distributor_registers
from pvtime.engine.kvm.device import Device
from pvtime.engine.kvm.ioctl import KvmError
from pvtime.engine.kvm.vgic import IRQS
from pvtime.errors import SavedStateError

__all__ = ["VgicState", "read_vgic", "write_vgic"]

Values = dict[str, int]
"""By the registers' names."""


@dataclass(frozen=True)
class VgicState:
    """A GICv3."""

    distributor: Values
    cpus: list[Values]
    """Each one's redistributor and CPU interface."""


def read_vgic(device: Device, mpidrs: Iterable[int]) -> VgicState:
    """Return the state, while no vCPU is in KVM_RUN.

    :param mpidrs: the vCPUs' affinity fields.
    """
    return VgicState(
        distributor=_read(device, 0, distributor_registers(IRQS)),
        cpus=[_read(device, mpidr, cpu_registers(_control(device, mpidr))) for mpidr in mpidrs],
    )


def write_vgic(device: Device, mpidrs: list[int], state: VgicState) -> None:
    """Give an initialised controller, of which nothing is in use, a saved state.

    :raises SavedStateError: this host's is another one; the message names the register.
    """
    if len(state.cpus) != len(mpidrs):
        raise SavedStateError(f"the interrupt controller was saved with {len(state.cpus)} CPUs")
    _write(device, 0, distributor_registers(IRQS), state.distributor)
    for mpidr, values in zip(mpidrs, state.cpus, strict=True):
        _write(device, mpidr, cpu_registers(_control(device, mpidr)), values)


def _control(device: Device, mpidr: int) -> IccCtlr:
    return IccCtlr(device.get_u64(ICC_CTLR_EL1.group, ICC_CTLR_EL1.attr(mpidr)))


def _read(device: Device, mpidr: int, registers: Iterable[VgicRegister]) -> Values:
    return {
        one.name: (device.get_u64 if one.is_wide else device.get_u32)(one.group, one.attr(mpidr))
        for one in registers
    }


def _write(device: Device, mpidr: int, registers: Iterable[VgicRegister], values: Values) -> None:
    known = list(registers)
    if different := {one.name for one in known} ^ values.keys():
        whose = "this host" if min(different) not in values else "the saved machine"
        raise SavedStateError(f"the interrupt controller is another one: only {whose} has {min(different)}")
    for one in known:
        value = values[one.name]
        if not 0 <= value < (2**64 if one.is_wide else 2**32):
            raise SavedStateError(f"the saved interrupt controller has an impossible {one.name}")
        try:
            (device.set_u64 if one.is_wide else device.set_u32)(one.group, one.attr(mpidr), value)
        except KvmError as error:
            raise SavedStateError(f"{one.name} cannot be {value:#x} as it was saved: {error}") from error
