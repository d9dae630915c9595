# SPDX-License-Identifier: GPL-2.0-or-later
"""The figures of a run, as docs/report.md documents them."""

from __future__ import annotations

from dataclasses import dataclass

from pvtime.engine.base import Outcome, VcpuSample
from pvtime.userland.protocol import CpuTimes

__all__ = ["SCHEMA", "Interval", "Moment", "Reading", "RunReport", "VcpuRow"]

SCHEMA = 4
"""Version of the JSON report; raised when a field changes its meaning or goes."""


@dataclass(frozen=True)
class VcpuRow(VcpuSample):
    """One vCPU at one moment: the engine's figures, and the guest's beside them. Times in ns.

    The guest's steal can be compared with the truth only over a time that both have counted. Since its first
    report, if the vCPU has called PV_TIME_ST again in this kernel (CPU hotplug); else since PV_TIME_ST.
    """

    guest: CpuTimes | None = None
    """The CPU's line of the guest's /proc/stat, since the guest's boot; None if no agent reports it."""
    guest_error_ns: int | None = None
    """Excess of the guest's steal over the truth; within the guest's tick if all is well. None: not known."""
    lowest_guest_error_ns: int | None = None
    """The lowest that it was in any report of this run."""
    highest_guest_error_ns: int | None = None
    """The highest."""
    guest_steal_falls: int = 0
    """Number of reports in which the guest's steal was below that of the report before."""
    guest_steal_fell_ns: int = 0
    """By how much, in all."""

    @property
    def guest_steal_ns(self) -> int | None:
        """The guest's steal, brought to the beginning of the truth: to be compared with it."""
        return None if self.guest_error_ns is None else self.truth_ns + self.guest_error_ns

    @property
    def worst_guest_error_ns(self) -> int | None:
        """The lowest or the highest error: the one that is farther from 0."""
        if self.lowest_guest_error_ns is None or self.highest_guest_error_ns is None:
            return None
        return max(self.highest_guest_error_ns, self.lowest_guest_error_ns, key=abs)

    @property
    def natural_ns(self) -> int:
        """Stolen time that was not injected."""
        return self.truth_ns - self.injected_ns

    @property
    def error_ns(self) -> int | None:
        """Excess of the structure over the truth; 0 by the first invariant of the design."""
        return None if self.structure_ns is None else self.structure_ns - self.truth_ns


@dataclass(frozen=True)
class Reading:
    """Every vCPU's row, all of one moment, ``elapsed_seconds`` after the start."""

    elapsed_seconds: float
    vcpus: tuple[VcpuRow, ...]

    @property
    def from_guest(self) -> bool:
        """Whether it has figures of the guest's own."""
        return any(row.guest is not None for row in self.vcpus)


@dataclass(frozen=True)
class Interval:
    """Sums of one vCPU's time between two readings: the host's, and the guest's beside them."""

    seconds: float
    ran_ns: int
    stolen_ns: int
    loads: int
    guest: CpuTimes | None


@dataclass(frozen=True)
class Moment(Reading):
    """A reading while the guest runs, or the last, with what is needed to show it."""

    stealing: bool = False
    """There is a schedule of time to steal on purpose."""
    begin: Reading | None = None
    """The reading from which to count shares: the first that has a report of this kernel's userland, else the
    start of a machine that was saved or migrated; None: the start, when all was 0."""

    def interval(self, row: VcpuRow) -> Interval:
        """Return the sums of a vCPU since :attr:`begin`."""
        if self.begin is None:
            return Interval(self.elapsed_seconds, row.ran_ns, row.truth_ns, row.loads, row.guest)
        before = self.begin.vcpus[row.index]
        # A truth that fell has counted from 0 since: the guest has called PV_TIME_ST again.
        stolen = row.truth_ns - before.truth_ns if row.truth_ns >= before.truth_ns else row.truth_ns
        return Interval(
            self.elapsed_seconds - self.begin.elapsed_seconds,
            row.ran_ns - before.ran_ns,
            stolen,
            row.loads - before.loads,
            row.guest - before.guest if row.guest and before.guest else None,
        )


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
    sampled_seconds: float
    """From the start to the moment of :attr:`vcpus`."""
    vcpus: tuple[VcpuRow, ...]
    begin: Reading | None
    """See :attr:`Moment.begin`."""
    schema: int = SCHEMA
