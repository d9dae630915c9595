# SPDX-License-Identifier: GPL-2.0-or-later
"""The growth of a guest's count beside that of the host's: between which bounds it must be."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pvtime.judge.console import CheckResult, Count, CountMoment, Verdict
from pvtime.judge.history import HostHistory, HostReading

__all__ = ["NAME", "Growth", "Growths", "Restored"]

NAME: Final = "grows_by_run_delay"
ENOUGH_NS: Final = 20_000_000
"""Stolen time that is worth a comparison."""
THOUSAND: Final = 1000
PREEMPTION_NS: Final = 50_000_000
"""An error that a preemption in the moment of a reading can make, on a busy host."""
LINE_NS: Final = 20_000_000
"""The longest time for which the fastest of a console's lines is on its way, on a busy host."""
MS: Final = 1_000_000
UNKNOWN_MOMENT: Final = (
    "the VMM held what the image printed back for so long that the host's figures of that time are not kept"
)
TOO_LATE: Final = (
    "the host was too busy to read its figures in time, so that they are too far apart: try again"
)
NOT_FOUND: Final = (
    "not every vCPU's thread was found: be root with debugfs mounted, or have the VMM name its threads "
    "(QEMU: -name guest,debug-threads=on)"
)


@dataclass(frozen=True)
class _Read:
    """A count, and the host's clock when its line had come."""

    count: Count
    received_ns: int
    history: HostHistory


@dataclass(frozen=True)
class _Placed:
    """A count, and the host's figures before and after it was read."""

    count: Count
    before_ns: int
    after_ns: int


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
    def width_ns(self) -> int:
        """The distance of the host's bounds."""
        return self.most_ns - self.least_ns

    @property
    def tells(self) -> bool:
        """Whether the bounds are no farther apart than a preemption, or half of what was stolen."""
        return self.width_ns <= max(PREEMPTION_NS, self.least_ns // 2)

    @property
    def error_ns(self) -> int:
        """By how much the guest's is out of bounds; below 0: too little."""
        return self.guest_ns - min(max(self.guest_ns, self.least_ns), self.most_ns)

    def _is_about(self, ns: int) -> bool:
        return self.least_ns // 2 <= ns <= self.most_ns * 2

    def _explains(self, ns: int) -> bool:
        """Whether this, counted in addition, explains the error, which may be larger by the bounds' width."""
        at_most = self.error_ns + self.width_ns
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


@dataclass
class Growths:
    """Pairs the image's counts with the host's run_delays.

    A line may come late, by any time. So a count is placed by the guest's clock, which is behind the host's
    by what the fastest line says: no line comes before it was printed. The guest's clock may stop for a
    while, with the machine, and never gains on the host's: later lines tell of earlier counts too.
    """

    restored: Restored | None = None
    incomparable: str = ""
    """Why the host's figures are not those of one life."""
    paused_ns: int = 0
    idle_ns: dict[int, int] = field(default_factory=dict)
    """Time for which a CPU was idle, as it says itself."""
    _history: HostHistory = field(default_factory=HostHistory)
    _reads: dict[tuple[CountMoment, int], list[_Read]] = field(default_factory=dict)
    _behind_ns: dict[CountMoment, int] = field(default_factory=dict)
    """By how much the guest's clock is behind the host's, at most: what the lines of a moment say."""

    def add_reading(self, reading: HostReading) -> None:
        """Take the host's figures of now."""
        self._history.add(reading)

    def begin_theft(self) -> None:
        """Keep the figures so far for the counts at the begin: much is read while the host steals."""
        self._history = HostHistory()

    def add(self, count: Count, received_ns: int) -> None:
        """Take a count of the image.

        A moment may have more than one: see print_counts in image/counts.c.

        :param received_ns: the host's clock when its line had come.
        """
        self._reads.setdefault((count.moment, count.cpu), []).append(_Read(count, received_ns, self._history))
        self._add_clock(count.moment, count.clock_ns, received_ns)

    def add_clock(self, clock_ns: int, received_ns: int) -> None:
        """Take the guest's clock from a line behind all counts."""
        self._add_clock(CountMoment.END, clock_ns, received_ns)

    def _add_clock(self, moment: CountMoment, clock_ns: int, received_ns: int) -> None:
        behind = received_ns - clock_ns
        self._behind_ns[moment] = min(behind, self._behind_ns.get(moment, behind))

    def _place(self, read: _Read) -> _Placed | None:
        """Return a count with the host's figures at its moment; None: they are not known."""
        moment, clock = read.count.moment, read.count.clock_ns
        own = self._behind_ns[moment]
        fastest = min(own, self._behind_ns.get(CountMoment.END, own))
        latest = min(own, fastest + LINE_NS)
        bounds = read.history.bounds(read.count.cpu, clock + fastest - LINE_NS, clock + latest)
        return None if bounds is None else _Placed(read.count, *bounds)

    def pairs(self) -> list[Growth]:
        """Return the growth of each vCPU of which guest and host are known at both moments.

        Of its readings those are taken that fit best.
        """
        found = []
        for cpu in self._cpus():
            begins, ends = (self._placed(moment, cpu) for moment in CountMoment)
            growths = [self._growth(begin, end) for begin, end in itertools.product(begins, ends)]
            if growths:
                found.append(min(growths, key=lambda growth: (abs(growth.error_ns), growth.width_ns)))
        return found

    def _placed(self, moment: CountMoment, cpu: int) -> list[_Placed]:
        placed = map(self._place, self._reads.get((moment, cpu), ()))
        return [each for each in placed if each is not None]

    def _cpus(self) -> list[int]:
        return sorted({cpu for _, cpu in self._reads})

    def _growth(self, begin: _Placed, end: _Placed) -> Growth:
        cpu = begin.count.cpu
        least = end.before_ns - begin.after_ns
        saved, used = None, 0
        if self.restored is not None:
            least -= self.restored.uncertain.get(cpu, 0)
            saved = max(0, self.restored.stolen.get(cpu, 0) - begin.before_ns)
            used = self.restored.used.get(cpu, 0)
        return Growth(
            cpu,
            end.count.stolen_ns - begin.count.stolen_ns,
            max(0, least),
            end.after_ns - begin.before_ns,
            idle_ns=self.idle_ns.get(cpu, 0),
            paused_ns=self.paused_ns,
            saved_ns=saved,
            used_ns=used,
        )

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
        if worst is not None and not worst.holds:
            if abs(worst.error_ns) <= PREEMPTION_NS:
                reason = (
                    f"cpu {worst.cpu} is off by {worst.error_ns} ns, no more than a preemption: try again"
                )
                return CheckResult(NAME, Verdict.SKIP, reason, details)
            reason = f"cpu {worst.cpu} is off by {worst.error_ns} ns: {worst.mistake()}"
            return CheckResult(NAME, Verdict.FAIL, reason, details)
        if len(pairs) < len(cpus):
            known = all(self._is_known(cpu) for cpu in cpus)
            return CheckResult(NAME, Verdict.SKIP, UNKNOWN_MOMENT if known else NOT_FOUND, details)
        enough = [each for each in pairs if each.least_ns >= ENOUGH_NS]
        if not enough:
            return CheckResult(NAME, Verdict.SKIP, "too little was stolen to compare", details)
        if not any(each.tells for each in enough):
            return CheckResult(NAME, Verdict.SKIP, TOO_LATE, details)
        return CheckResult(NAME, Verdict.PASS, "", details)

    def _is_known(self, cpu: int) -> bool:
        """Whether the host knew the vCPU before it stole."""
        return any(read.history.knows(cpu) for read in self._reads.get((CountMoment.BEGIN, cpu), ()))

    def idle_was_stolen(self) -> str:
        """Return the reason if a CPU's idle time was counted as stolen, else nothing."""
        if self.incomparable:
            return ""
        for each in self.pairs():
            if each.error_ns > PREEMPTION_NS and each.idle_is_in_it:
                return (
                    f"cpu {each.cpu} was idle for {each.idle_ns} ns, and its count has {each.error_ns} ns "
                    "too much"
                )
        return ""
