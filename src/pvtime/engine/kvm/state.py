# SPDX-License-Identifier: GPL-2.0-or-later
"""What is saved of a machine on KVM, beside its memory and its devices in user space."""

from __future__ import annotations

from dataclasses import dataclass

from pvtime.engine.kvm.registers import CpuState
from pvtime.engine.kvm.truth import StolenState
from pvtime.engine.kvm.vgic_state import VgicState
from pvtime.errors import SavedStateError

__all__ = ["KvmState", "VcpuState"]

_LIMIT = 1 << 63
"""Of a figure: 292 years in ns."""


@dataclass(frozen=True)
class VcpuState:
    """One vCPU."""

    cpu: CpuState
    stolen: StolenState | None
    """None: it has no structure."""
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

    def check(self, without: list[bool], frequency: int) -> None:
        """Check that a machine can be in this state.

        :param without: for each vCPU, whether it has no structure.
        :param frequency: of this host's counter, in Hz.
        :raises SavedStateError: it cannot.
        """
        if [vcpu.stolen is None for vcpu in self.vcpus] != without:
            raise SavedStateError("the saved machine has other vCPUs, or others without stolen time")
        if self.counter_frequency != frequency:
            raise SavedStateError(
                f"the guest counts on a counter (CNTFRQ_EL0) of {self.counter_frequency} Hz, "
                f"and this host's has {frequency} Hz"
            )
        for vcpu in self.vcpus:
            figures = [vcpu.ran_ns, vcpu.loads]
            if vcpu.stolen is not None:
                figures += [vcpu.stolen.truth_ns, vcpu.stolen.injected_ns]
            if not all(0 <= figure < _LIMIT for figure in figures):
                raise SavedStateError(f"a vCPU was saved with impossible figures: {figures}")
