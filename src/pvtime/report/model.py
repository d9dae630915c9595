# SPDX-License-Identifier: GPL-2.0-or-later
"""The figures of a run, as docs/report.md documents them."""

from __future__ import annotations

from pvtime.engine.base import Outcome, VcpuSample, VcpuTimes
from pvtime.records import dataclass
from pvtime.userland.protocol import CpuTimes

__all__ = ["SCHEMA", "Interval", "Moment", "Reading", "RunReport", "VcpuRow"]

SCHEMA = 4
"""Version of the JSON report; raised when a field changes its meaning or goes."""


@dataclass(frozen=True)
class VcpuRow(VcpuSample):
    """One vCPU at one moment: the engine's figures, and the guest's beside them. Times in ns.

    Guest and truth can be compared only over a time that both have counted: since PV_TIME_ST. If the vCPU has
    called that again in this kernel (CPU hotplug), and the guest's column has not fallen with the truth, that
    is since the first report after it.
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
    """A vCPU's time between two readings: the host's columns, and the guest's beside them."""

    host: VcpuTimes
    guest: CpuTimes | None

    @classmethod
    def since_start(cls, row: VcpuRow) -> Interval:
        """Return the interval from the machine's start to ``row``: the guest's columns begin at its boot."""
        return cls(row.times, None)

    @classmethod
    def between(cls, before: VcpuRow, row: VcpuRow) -> Interval:
        """Return the interval between two rows of one vCPU."""
        return cls(row.times - before.times, row.guest - before.guest if row.guest and before.guest else None)


@dataclass(frozen=True)
class Moment(Reading):
    """A reading while the guest runs, or the last, with what is needed to show it."""

    stealing: bool = False
    """There is a schedule of time to steal on purpose."""
    begin: Reading | None = None
    """An earlier reading, to show the time since then as well: the first that has a report of this kernel's
    userland, else the start here of a machine that was saved or migrated; None: neither."""


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
