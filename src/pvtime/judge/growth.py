# SPDX-License-Identifier: GPL-2.0-or-later
"""The growth of a guest's count beside that of the host's: between which bounds it must be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pvtime.judge.console import CheckResult, Count, CountMoment, Verdict

__all__ = ["Growth", "Growths"]

NAME: Final = "grows_by_run_delay"
ENOUGH_NS: Final = 20_000_000
"""Stolen time that is worth a comparison."""
THOUSAND: Final = 1000
PREEMPTION_NS: Final = 50_000_000
"""An error that a preemption in the moment of a reading can make, on a busy host."""
NOT_FOUND: Final = (
    "not every vCPU's thread was found: be root with debugfs mounted, or have the VMM name its threads "
    "(QEMU: -name guest,debug-threads=on)"
)


@dataclass(frozen=True)
class Growth:
    """One vCPU's growth between two moments, in ns: the guest's, and the host's at least and most."""

    cpu: int
    guest_ns: int
    least_ns: int
    most_ns: int

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

    def mistake(self) -> str:
        """Return the likely mistake, in words."""
        if self.holds:
            return ""
        if self.guest_ns == 0:
            return "it does not grow: nobody updates the structure"
        if self._is_about(self.guest_ns * THOUSAND):
            return "it is a thousandth of what was stolen: it counts us, not ns"
        if self.error_ns < 0:
            return "it lost time: an update is not made at every load, or forgets what came before"
        return "it has more than the thread waited: another thread's time, or the time of exits, is in it"


@dataclass
class Growths:
    """Pairs the image's counts with the host's run_delays."""

    _guest: dict[tuple[CountMoment, int], int] = field(default_factory=dict)
    _host: dict[tuple[CountMoment, int], tuple[int, int]] = field(default_factory=dict)

    def add(self, count: Count, before: Mapping[int, int], after: Mapping[int, int]) -> None:
        """Take a count of the image that was read between two readings of the host's figures."""
        key = (count.moment, count.cpu)
        self._guest[key] = count.stolen_ns
        if count.cpu in before and count.cpu in after:
            self._host[key] = before[count.cpu], after[count.cpu]

    def pairs(self) -> list[Growth]:
        """Return the growth of each vCPU of which guest and host are known at both moments."""
        found = []
        for moment, cpu in sorted(self._host, key=lambda key: key[1]):
            end = (CountMoment.END, cpu)
            if moment is not CountMoment.BEGIN or end not in self._host:
                continue
            least_begin, most_begin = self._host[moment, cpu]
            least_end, most_end = self._host[end]
            guest = self._guest[end] - self._guest[moment, cpu]
            found.append(Growth(cpu, guest, max(0, least_end - most_begin), most_end - least_begin))
        return found

    def check(self) -> CheckResult | None:
        """Return the verdict; None: the image printed no counts."""
        cpus = {cpu for _, cpu in self._guest}
        if not cpus:
            return None
        pairs = self.pairs()
        details = tuple(
            f"cpu {each.cpu}: count grew {each.guest_ns} ns, run_delay {each.least_ns} to {each.most_ns} ns"
            for each in pairs
        )
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
            return CheckResult(NAME, Verdict.SKIP, NOT_FOUND, details)
        if not any(each.least_ns >= ENOUGH_NS for each in pairs):
            return CheckResult(NAME, Verdict.SKIP, "too little was stolen to compare", details)
        return CheckResult(NAME, Verdict.PASS, "", details)
