# SPDX-License-Identifier: GPL-2.0-or-later
"""The figures of a run, as docs/report.md documents them."""

from __future__ import annotations

from dataclasses import dataclass

from pvtime.engine.base import Outcome, VcpuSample

__all__ = ["SCHEMA", "Moment", "RunReport", "VcpuRow"]

SCHEMA = 3
"""Version of the JSON report; raised when a field changes its meaning or goes."""


@dataclass(frozen=True)
class VcpuRow(VcpuSample):
    """One vCPU at one moment: the engine's figures, and the guest's beside them."""

    guest_steal_ns: int | None = None
    """Steal in the guest's /proc/stat, in steps of its tick; None if no agent reports it."""

    @classmethod
    def join(cls, sample: VcpuSample, guest_steal_ns: int | None) -> VcpuRow:
        """Join the engine's figures and the guest's, which are of the same moment."""
        return cls(**vars(sample), guest_steal_ns=guest_steal_ns)

    @property
    def natural_ns(self) -> int:
        """Stolen time that was not injected."""
        return self.truth_ns - self.injected_ns

    @property
    def error_ns(self) -> int | None:
        """Excess of the structure over the truth; 0 by the first invariant of the design."""
        return None if self.structure_ns is None else self.structure_ns - self.truth_ns

    @property
    def guest_error_ns(self) -> int | None:
        """Excess of the guest's /proc/stat over the truth; within the guest's tick if all is well."""
        return None if self.guest_steal_ns is None else self.guest_steal_ns - self.truth_ns


@dataclass(frozen=True)
class Moment:
    """Every vCPU's row, all of one moment, ``elapsed_seconds`` after the start."""

    elapsed_seconds: float
    vcpus: tuple[VcpuRow, ...]
    stealing: bool = False
    """There is a schedule of time to steal on purpose."""
    before_ns: tuple[int, ...] = ()
    """Each vCPU's truth at the start of a machine that was saved or migrated; else empty."""

    def stolen_here_ns(self, row: VcpuRow) -> int:
        """Return the stolen time since the start; the whole truth if the guest has reset its count since."""
        before = self.before_ns[row.index] if self.before_ns else 0
        return row.truth_ns - before if row.truth_ns >= before else row.truth_ns

    @property
    def from_guest(self) -> bool:
        """Whether it has figures of the guest's own."""
        return any(row.guest_steal_ns is not None for row in self.vcpus)


@dataclass(frozen=True)
class RunReport:
    """Figures of a run that has ended."""

    engine: str
    placement: str
    kernel: str | None
    """Release as the guest printed it; None if it printed none."""
    boot_seconds: float | None
    """From the start to userland; None if no agent reported."""
    elapsed_seconds: float
    """From the start to the end."""
    outcome: Outcome
    vcpus: tuple[VcpuRow, ...]
    schema: int = SCHEMA
