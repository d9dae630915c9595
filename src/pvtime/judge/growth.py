# SPDX-License-Identifier: GPL-2.0-or-later
"""The growth of a guest's count beside that of the host's: between which bounds it must be."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pvtime.judge.console import CheckResult, Count, CountMoment, Verdict

__all__ = ["NAME", "Growth", "Growths", "HostReading", "Restored"]

NAME: Final = "grows_by_run_delay"
ENOUGH_NS: Final = 20_000_000
"""Stolen time that is worth a comparison."""
THOUSAND: Final = 1000
PREEMPTION_NS: Final = 50_000_000
"""An error that a preemption in the moment of a reading can make, on a busy host."""
LATE_NS: Final = 20_000_000
"""A difference between the guest's clock and the host's that is not the console's."""
GROSS: Final = 10
"""An error of so many times that difference has another cause."""
MS: Final = 1_000_000
NS: Final = 1_000_000_000
NOT_FOUND: Final = (
    "not every vCPU's thread was found: be root with debugfs mounted, or have the VMM name its threads "
    "(QEMU: -name guest,debug-threads=on)"
)


@dataclass(frozen=True)
class HostReading:
    """The host's figures, by vCPU, in ns, and the time at which they were read, in s of time.monotonic()."""

    stolen: Mapping[int, int]
    at_s: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class _Read:
    """A count, and the host's figures before and after it was read."""

    count: Count
    before: HostReading
    after: HostReading

    @property
    def is_known(self) -> bool:
        """Whether the host knew the vCPU."""
        return self.count.cpu in self.before.stolen and self.count.cpu in self.after.stolen


@dataclass(frozen=True)
class Restored:
    """The host's figures of a machine that was saved and restored, by vCPU, in ns."""

    stolen: Mapping[int, int]
    """Stolen time when it was at rest, as :meth:`~pvtime.judge.subject.Subject.run_delays` counts."""
    uncertain: Mapping[int, int] = field(default_factory=dict)
    """The part of it that the count need not have: waits after the last entry are never written."""
    used: Mapping[int, int] = field(default_factory=dict)
    """Time for which the threads on which it was restored had waited for a CPU before."""


@dataclass(frozen=True)
class Growth:
    """One vCPU's growth between two moments, in ns: the guest's, and the host's at least and most.

    What else happened between these moments explains an error.
    """

    cpu: int
    guest_ns: int
    least_ns: int
    most_ns: int
    idle_ns: int = 0
    paused_ns: int = 0
    saved_ns: int | None = None
    """The host's growth until the machine was saved; None: it was not."""
    used_ns: int = 0
    """See :attr:`Restored.used`."""

    @property
    def holds(self) -> bool:
        """Whether the guest's is within the host's."""
        return self.least_ns <= self.guest_ns <= self.most_ns

    @property
    def error_ns(self) -> int:
        """By how much the guest's is out of bounds; below 0: too little."""
        return self.guest_ns - min(max(self.guest_ns, self.least_ns), self.most_ns)

    def _is_about(self, ns: int) -> bool:
        return self.least_ns // 2 <= ns <= self.most_ns * 2

    def _explains(self, ns: int) -> bool:
        """Whether this, counted in addition, explains the error, which may be larger by the bounds' width."""
        at_most = self.error_ns + self.most_ns - self.least_ns
        return 0 < self.error_ns <= ns + ns // 2 + PREEMPTION_NS and 0 < ns // 2 <= at_most

    @property
    def idle_is_in_it(self) -> bool:
        """Whether the time for which the CPU was idle was counted."""
        return self.saved_ns is None and not self._explains(self.paused_ns) and self._explains(self.idle_ns)

    def describe(self) -> str:
        """Return the figures, and the likely mistake."""
        text = (
            f"cpu {self.cpu}: count grew {self.guest_ns} ns, run_delay {self.least_ns} to {self.most_ns} ns"
        )
        return f"{text}: {self.mistake()}" if abs(self.error_ns) > PREEMPTION_NS else text

    def mistake(self) -> str:
        """Return the likely mistake, in words."""
        if self.holds:
            return ""
        if self.guest_ns == 0:
            return "it does not grow: nobody updates the structure"
        if self._is_about(self.guest_ns * THOUSAND):
            return "it is a thousandth of what was stolen: it counts us, not ns"
        if self.saved_ns is not None:
            if self.error_ns > 0:
                waited = f", {self.used_ns // MS} ms" if self.used_ns else ""
                return f"what its new thread had waited before the restore{waited}, is in it"
            if self.saved_ns and self.guest_ns <= self.most_ns - self.saved_ns + PREEMPTION_NS:
                return "what was counted before the restore is lost"
        if self._explains(self.paused_ns):
            return "the time for which the machine was paused is in it"
        if self.idle_is_in_it:
            return "the time for which the CPU was idle (WFI) is in it"
        if self.error_ns < 0:
            return "it lost time: an update is not made at every load, or forgets what came before"
        return "it has more than the thread waited: another thread's time, or the time of exits, is in it"


def _late_ns(begin: _Read, end: _Read) -> int:
    """Return by how much less time passed on the console than in the guest; 0 or less: none came late."""
    guest_ns = end.count.clock_ns - begin.count.clock_ns
    return guest_ns - int((end.after.at_s - begin.before.at_s) * NS)


@dataclass
class Growths:
    """Pairs the image's counts with the host's run_delays."""

    restored: Restored | None = None
    incomparable: str = ""
    """Why the host's figures are not those of one life."""
    paused_ns: int = 0
    idle_ns: dict[int, int] = field(default_factory=dict)
    """Time for which a CPU was idle, as it says itself."""
    _reads: dict[tuple[CountMoment, int], list[_Read]] = field(default_factory=dict)

    def add(self, count: Count, before: HostReading, after: HostReading) -> None:
        """Take a count of the image that was read between two readings of the host's figures.

        A moment may have more than one: see print_counts in image/checks.c.
        """
        self._reads.setdefault((count.moment, count.cpu), []).append(_Read(count, before, after))

    def pairs(self) -> list[Growth]:
        """Return the growth of each vCPU of which guest and host are known at both moments.

        Of its readings those are taken that fit best, and of those that did not come late if there are any.
        """
        found = []
        for cpu in self._cpus():
            known = [(begin, end) for begin, end in self._readings(cpu) if begin.is_known and end.is_known]
            timely = [(begin, end) for begin, end in known if _late_ns(begin, end) <= LATE_NS]
            growths = [self._growth(begin, end) for begin, end in timely or known]
            if growths:
                found.append(min(growths, key=lambda growth: abs(growth.error_ns)))
        return found

    def _readings(self, cpu: int) -> list[tuple[_Read, _Read]]:
        """Return all pairs of a CPU's readings at the two moments."""
        begins, ends = (self._reads.get((moment, cpu), ()) for moment in (CountMoment.BEGIN, CountMoment.END))
        return list(itertools.product(begins, ends))

    def _cpus(self) -> list[int]:
        return sorted({cpu for _, cpu in self._reads})

    def _growth(self, begin: _Read, end: _Read) -> Growth:
        cpu = begin.count.cpu
        least = end.before.stolen[cpu] - begin.after.stolen[cpu]
        saved, used = None, 0
        if self.restored is not None:
            least -= self.restored.uncertain.get(cpu, 0)
            saved = max(0, self.restored.stolen.get(cpu, 0) - begin.before.stolen[cpu])
            used = self.restored.used.get(cpu, 0)
        return Growth(
            cpu,
            end.count.stolen_ns - begin.count.stolen_ns,
            max(0, least),
            end.after.stolen[cpu] - begin.before.stolen[cpu],
            idle_ns=self.idle_ns.get(cpu, 0),
            paused_ns=self.paused_ns,
            saved_ns=saved,
            used_ns=used,
        )

    def late_ns(self) -> int:
        """Return by how much less time passed between the console's lines than between the guest's counts.

        More than 0: the VMM held the first lines back, and the host's figures are of a later moment. A CPU's
        readings count that did so least.
        """
        late = 0
        for cpu in self._cpus():
            of_pairs = (_late_ns(begin, end) for begin, end in self._readings(cpu))
            late = max(late, min(of_pairs, default=0))
        return late

    def check(self) -> CheckResult | None:
        """Return the verdict; None: the image printed no counts."""
        cpus = self._cpus()
        if not cpus:
            return None
        if self.incomparable:
            return CheckResult(NAME, Verdict.SKIP, self.incomparable)
        pairs = self.pairs()
        details = tuple(each.describe() for each in pairs)
        worst = max(pairs, key=lambda each: abs(each.error_ns), default=None)
        late = self.late_ns()
        if late > LATE_NS and (worst is None or abs(worst.error_ns) <= GROSS * late + PREEMPTION_NS):
            reason = (
                f"the VMM held what the image printed back for {late // MS} ms: no moment to compare is known"
            )
            return CheckResult(NAME, Verdict.SKIP, reason, details)
        if worst is not None and not worst.holds:
            if abs(worst.error_ns) <= PREEMPTION_NS:
                reason = (
                    f"cpu {worst.cpu} is off by {worst.error_ns} ns, no more than a preemption: try again"
                )
                return CheckResult(NAME, Verdict.SKIP, reason, details)
            reason = f"cpu {worst.cpu} is off by {worst.error_ns} ns: {worst.mistake()}"
            return CheckResult(NAME, Verdict.FAIL, reason, details)
        if len(pairs) < len(cpus):
            return CheckResult(NAME, Verdict.SKIP, NOT_FOUND, details)
        if not any(each.least_ns >= ENOUGH_NS for each in pairs):
            return CheckResult(NAME, Verdict.SKIP, "too little was stolen to compare", details)
        return CheckResult(NAME, Verdict.PASS, "", details)

    def idle_was_stolen(self) -> str:
        """Return the reason if a CPU's idle time was counted as stolen, else nothing."""
        if self.incomparable or self.late_ns() > LATE_NS:
            return ""
        for each in self.pairs():
            if each.error_ns > PREEMPTION_NS and each.idle_is_in_it:
                return (
                    f"cpu {each.cpu} was idle for {each.idle_ns} ns, and its count has {each.error_ns} ns "
                    "too much"
                )
        return ""
