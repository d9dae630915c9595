# SPDX-License-Identifier: GPL-2.0-or-later
"""How long a vCPU of the embedded engine has idled, as far as that is certain however busy the host is."""

from __future__ import annotations

import time
from dataclasses import dataclass

from framework.wait import wait_until
from pvtime.engine.unicorn.engine import UnicornEngine
from pvtime.engine.unicorn.vcpu import SchedState

__all__ = ["Watched", "watch_idle"]


@dataclass(frozen=True)
class _Moment:
    """A vCPU at one moment: nothing runs while it is looked at."""

    now_ns: int
    idle: bool
    loads: int
    deadline_ns: int | None
    ran_ns: int
    truth_ns: int

    def idled_until(self, later: _Moment) -> int:
        """Return how long it idled for certain between this moment and a later one, in ns.

        A vCPU that idles at both, and was not loaded between them, idled all the time. From the time of its
        timer on it is the engine that is late: that is stolen.
        """
        if not (self.idle and later.idle and self.loads == later.loads):
            return 0
        due = later.now_ns if self.deadline_ns is None else self.deadline_ns
        return max(0, min(due, later.now_ns) - self.now_ns)


@dataclass(frozen=True)
class Watched:
    """What was seen of a vCPU over an interval, in ns."""

    elapsed_ns: int
    idle_ns: int
    """Not less than this."""
    ran_ns: int
    stolen_ns: int

    def refuse_stolen_idle_time(self) -> None:
        """Check that what it ran, what was stolen from it and what it idled fit into the time that passed.

        All are differences of CLOCK_MONOTONIC, so this holds to the ns on any host.
        """
        assert self.ran_ns + self.stolen_ns + self.idle_ns <= self.elapsed_ns, self


def watch_idle(engine: UnicornEngine, index: int, enough_ns: int) -> Watched:
    """Watch a vCPU until it has idled so long."""
    vcpu = engine.vm.vcpus[index]

    def look() -> _Moment:
        now = time.monotonic_ns()
        sample = vcpu.sample(now)
        idle, deadline = vcpu.state is SchedState.IDLE, vcpu.timer.deadline
        return _Moment(now, idle, sample.loads, deadline, sample.ran_ns, sample.truth_ns)

    first = last = engine.call(look)
    idle_ns = 0

    def has_idled() -> bool:
        nonlocal last, idle_ns
        now = engine.call(look)
        idle_ns += last.idled_until(now)
        last = now
        return idle_ns >= enough_ns

    wait_until(has_idled, engine, message=lambda: f"it has idled for {idle_ns} ns, and is {last}")
    return Watched(
        last.now_ns - first.now_ns, idle_ns, last.ran_ns - first.ran_ns, last.truth_ns - first.truth_ns
    )
