# SPDX-License-Identifier: GPL-2.0-or-later
"""Waits of vCPUs' threads, the pieces into which they are cut, and the scheduler's events on them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias

__all__ = [
    "IDLE",
    "OTHERS",
    "QUOTA",
    "UNKNOWN",
    "Activity",
    "Gap",
    "Migrate",
    "Runner",
    "Switch",
    "VcpuActivity",
    "Wait",
    "Wakeup",
    "divide",
    "merged",
    "without",
]

Runner: TypeAlias = tuple[int, bytes]
"""A thread by its identifier and its name, as the scheduler has it."""
Switch: TypeAlias = tuple[int, bytes, int, int, bytes, int]
"""sched_switch: time in ns, name, thread and state of the one before, name and thread of the next."""
Wakeup: TypeAlias = tuple[int, int, int]
"""sched_wakeup: time, thread, CPU."""
Migrate: TypeAlias = tuple[int, int, int]
"""sched_migrate_task: time, thread, CPU."""

IDLE: Final[Runner] = (0, b"")
"""The CPU was idle: the thread was on its way there."""
UNKNOWN: Final[Runner] = (-1, b"")
"""Records were lost, or the tracing had not begun."""
QUOTA: Final[Runner] = (-2, b"")
"""The thread's cgroup had used up its quota."""
OTHERS: Final[Runner] = (-3, b"")
"""Threads beyond :data:`pvtime.watch.wait_tracker.MAX_RUNNERS`."""


class Activity(StrEnum):
    """The state of a vCPU's thread."""

    UNKNOWN = "unknown"
    RUNS = "ran"
    WAITS = "stolen"
    SLEEPS = "blocked"
    STOPPED = "stopped"


@dataclass
class Wait:
    """A wait and its pieces."""

    tid: int
    begin: int
    seen: bool
    """Its beginning was traced."""
    before_ns: int = 0
    """The part of it before the window."""
    counted_ns: int = 0
    """The part of it that run_delay has already: the kernel adds what a thread waited in a queue that it
    leaves."""
    end: int | None = None
    pieces: list[tuple[int, int, Runner]] = field(default_factory=list)
    """Begin, end and who ran, where they are needed later."""
    causes: defaultdict[Runner, int] = field(default_factory=lambda: defaultdict(int))
    """Time by who ran, where the pieces are not needed."""
    throttled: list[tuple[int, int]] = field(default_factory=list)

    def clip(self, end: int) -> None:
        """Forget what was after a time."""
        self.pieces = [(low, min(high, end), runner) for low, high, runner in self.pieces if low < end]
        self.throttled = [(low, min(high, end)) for low, high in self.throttled if low < end]
        self.end = max(self.begin, end if self.end is None else min(self.end, end))

    def totals(self) -> dict[Runner, int]:
        """Return the time by cause, with what was throttled under :data:`QUOTA`."""
        found = self.causes.copy()
        throttled = merged(self.throttled)
        for begin, end, runner in self.pieces:
            quota = sum(max(0, min(end, high) - max(begin, low)) for low, high in throttled)
            found[QUOTA] += quota
            found[runner] += end - begin - quota
        return {runner: ns for runner, ns in found.items() if ns}


@dataclass
class VcpuActivity:
    """A vCPU's time since the window began, in ns."""

    tid: int
    activity: Activity = Activity.UNKNOWN
    since: int = 0
    times: defaultdict[Activity, int] = field(default_factory=lambda: defaultdict(int))
    causes: defaultdict[Runner, int] = field(default_factory=lambda: defaultdict(int))
    """Stolen time by cause, of waits that are settled."""
    arrivals: int = 0
    """The number of times that it was put on a CPU, since the tracing began."""
    arrived: int = 0
    """The last time that it was."""
    longest_ns: int = 0
    """The longest wait."""
    waited_ns: int = 0
    """All waits that ended since their beginnings are known: what run_delay grew by."""
    checked: tuple[int, int] | None = None
    """:attr:`waited_ns` and the kernel's run_delay at the first comparison."""
    uncounted: int = 0
    """:attr:`arrivals` less the kernel's, then."""
    refused: int = 0
    """Comparisons before the first that came too soon after an arrival."""
    counted_ns: int = 0
    """The kernel's run_delay between the first and the last comparison."""
    missing_ns: int = 0
    """Its part that was not traced."""
    unseen_arrivals: list[tuple[int, Runner]] = field(default_factory=list)
    """Spans since the last comparison in which it first waited and then ran, and who had the CPU before."""


@dataclass(frozen=True)
class Gap:
    """A time on a CPU in which one thread was followed by another without a record."""

    length_ns: int
    last: Runner
    """The thread that left the CPU at its end."""
    waits: tuple[tuple[int, int], ...]
    """Threads that waited there, and for how long, until its end."""


def merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return spans that do not overlap, of the same times."""
    found: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((begin, end))
    return found


def without(begin: int, end: int, holes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return what is left of a span without the holes, which are in order.

    >>> without(0, 10, [(2, 3), (8, 12)])
    [(0, 2), (3, 8)]
    """
    left = []
    for low, high in holes:
        if low > begin:
            left.append((begin, min(low, end)))
        begin = max(begin, high)
        if begin >= end:
            return left
    return [*left, (begin, end)]


def divide(total: int, lengths: list[int]) -> list[int]:
    """Divide a time among waits: the same for all, but none more than its length.

    >>> divide(10, [2, 9, 9])
    [2, 4, 4]
    """
    shares = [0] * len(lengths)
    left = total
    order = sorted(range(len(lengths)), key=lambda at: lengths[at])
    for done, at in enumerate(order):
        shares[at] = min(lengths[at], left // (len(order) - done))
        left -= shares[at]
    return shares
