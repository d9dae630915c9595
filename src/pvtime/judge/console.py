# SPDX-License-Identifier: GPL-2.0-or-later
"""The image's lines on a VMM's console: the results of its checks, and counts for the host to compare.

The console is a guest's, and other lines may be between: everything is bounded, and nothing is trusted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

__all__ = [
    "MAX_CONSOLE",
    "MAX_CPUS",
    "CheckResult",
    "Clock",
    "Console",
    "Count",
    "CountMoment",
    "ImagePhase",
    "Verdict",
]

MAX_CONSOLE: Final = 1 << 20
"""Bytes of a console that are kept; the image writes some 4 KiB."""
MAX_LINE: Final = 1024
MAX_DETAILS: Final = 64
"""Lines that are kept with a check."""
MAX_CHECKS: Final = 100
MAX_CPUS: Final = 64
"""The image's own limit: MAX_CPUS in image/layout.h."""


MAX_COUNTS: Final = 16 * MAX_CPUS


class Verdict(Enum):
    """A check's result, in the words of the image's lines."""

    PASS = "pass"
    FAIL = "fail"
    SKIP = "skip"


class CountMoment(Enum):
    """A moment at which the image prints every CPU's count."""

    BEGIN = "begin"
    END = "end"


class ImagePhase(Enum):
    """The image's lines on what comes next. The host steals between the first two."""

    LOAD = "load"
    CALM = "calm"
    RESET = "reset"
    """It resets the machine now."""


@dataclass(frozen=True)
class CheckResult:
    """A check's verdict, the reason for one that did not pass, and the figures that were printed with it."""

    name: str
    verdict: Verdict
    reason: str = ""
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Count:
    """A CPU's stolen time in its structure, and the guest's clock just behind its reading, in ns."""

    moment: CountMoment
    cpu: int
    stolen_ns: int
    clock_ns: int


@dataclass(frozen=True)
class Clock:
    """The guest's clock when a line was printed, in ns."""

    ns: int


_PLAN: Final = re.compile(r"1\.\.([0-9]{1,3})")
_RESULT: Final = re.compile(r"pvtime-result: ([a-z0-9_]{1,60}) (pass|fail|skip)")
_COUNT: Final = re.compile(
    r"pvtime-data: (begin|end) cpu=([0-9]{1,3}) stolen_ns=([0-9]{1,20}) clock_ns=([0-9]{1,20})"
)
_CLOCK: Final = re.compile(r"pvtime-data: clock_ns=([0-9]{1,20})")
_IDLE: Final = re.compile(r"pvtime-data: idle cpu=([0-9]{1,3}) ns=([0-9]{1,20})")
_PHASE: Final = re.compile(r"pvtime-phase: (load|calm|reset)")
_SKIPPED: Final = re.compile(r"ok [0-9]+ [a-z0-9_]+ # SKIP (.*)")
END: Final = "end"
"""The name in the image's last result."""


@dataclass
class Console:
    """The lines of a console so far."""

    results: list[CheckResult] = field(default_factory=list)
    counts: list[Count] = field(default_factory=list)
    idle_ns: dict[int, int] = field(default_factory=dict)
    """Time for which a CPU was idle while the host stole."""
    ended: bool = False
    """Whether the image came to its end."""
    raw: bytearray = field(default_factory=bytearray)
    _line: bytearray = field(default_factory=bytearray)
    _details: list[str] = field(default_factory=list)
    _reason: str = ""
    _planned: int | None = None

    def feed(self, data: bytes) -> Count | Clock | ImagePhase | None:
        """Take output that has no more than one line's end; return what that line has for the host."""
        self.raw += data[: max(0, MAX_CONSOLE - len(self.raw))]
        self._line += data[: max(0, MAX_LINE - len(self._line))]
        if not data.endswith(b"\n"):
            return None
        line = self._line.decode("ascii", "replace").strip()
        self._line.clear()
        return self._take(line)

    @property
    def started(self) -> bool:
        """Whether the image has begun: it prints a plan first, which the image's own bytes do not have."""
        return self._planned is not None

    @property
    def lost(self) -> int:
        """Number of planned results that are missing so far."""
        return max(0, (self._planned or 0) - len(self.results))

    def _take(self, line: str) -> Count | Clock | ImagePhase | None:
        if self._planned is None:
            if match := _PLAN.fullmatch(line):
                self._planned = int(match[1])
            return None
        if match := _COUNT.fullmatch(line):
            count = Count(CountMoment(match[1]), int(match[2]), int(match[3]), int(match[4]))
            if count.cpu < MAX_CPUS and len(self.counts) < MAX_COUNTS:
                self.counts.append(count)
                return count
        elif match := _IDLE.fullmatch(line):
            if (cpu := int(match[1])) < MAX_CPUS:
                self.idle_ns[cpu] = int(match[2])
        elif match := _CLOCK.fullmatch(line):
            return Clock(int(match[1]))
        elif match := _PHASE.fullmatch(line):
            return ImagePhase(match[1])
        elif match := _RESULT.fullmatch(line):
            self._conclude(match[1], Verdict(match[2]))
        elif match := _SKIPPED.fullmatch(line):
            self._reason = match[1]
        elif line.startswith("# ") and len(self._details) < MAX_DETAILS:
            self._details.append(line.removeprefix("# "))
        return None

    def _conclude(self, name: str, verdict: Verdict) -> None:
        if name == END:
            self.ended = True
        else:
            if verdict is Verdict.FAIL and self._details:
                self._reason = self._details.pop()
            self._add(CheckResult(name, verdict, self._reason, tuple(self._details)))
        self._details.clear()
        self._reason = ""

    def _add(self, result: CheckResult) -> None:
        """Keep a result; of two of one check the first, but for a failure."""
        for number, known in enumerate(self.results):
            if known.name == result.name:
                if result.verdict is Verdict.FAIL:
                    self.results[number] = result
                return
        if len(self.results) < MAX_CHECKS:
            self.results.append(result)
