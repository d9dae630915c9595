# SPDX-License-Identifier: GPL-2.0-or-later
"""What is saved of a machine on KVM, beside its memory and its devices in user space."""

from __future__ import annotations

from dataclasses import dataclass

from pvtime.engine.kvm.registers import CpuState
from pvtime.engine.kvm.vgic_state import VgicState
from pvtime.errors import SavedStateError
from pvtime.steal.kvm_truth import StolenState

__all__ = ["KvmState", "VcpuState"]

_LIMIT = 1 << 63
"""Of a figure: 292 years in ns."""


@dataclass(frozen=True)
class VcpuState:
    """One vCPU."""

    cpu: CpuState
    stolen: StolenState
    ran_ns: int
    loads: int


@dataclass(frozen=True)
class KvmState:
    """A machine."""

    counter_frequency: int
    """CNTFRQ_EL0, in Hz, which the guest has read."""
    counters: dict[str, bytes]
    """The guest's clocks; the time that it is not running anywhere does not pass for it."""
    vgic: VgicState
    vcpus: list[VcpuState]

    def check(self, vcpus: int, frequency: int) -> None:
        """Check that a machine of so many vCPUs can be in this state.

        :param frequency: of this host's counter, in Hz.
        :raises SavedStateError: it cannot.
        """
        if len(self.vcpus) != vcpus:
            raise SavedStateError(f"{len(self.vcpus)} vCPUs are saved, this machine has {vcpus}")
        if self.counter_frequency != frequency:
            raise SavedStateError(
                f"the guest counts on a counter (CNTFRQ_EL0) of {self.counter_frequency} Hz, "
                f"and this host's has {frequency} Hz"
            )
        for vcpu in self.vcpus:
            figures = [vcpu.ran_ns, vcpu.loads, vcpu.stolen.truth_ns, vcpu.stolen.injected_ns]
            if not all(0 <= figure < _LIMIT for figure in figures):
                raise SavedStateError(f"a vCPU was saved with impossible figures: {figures}")
