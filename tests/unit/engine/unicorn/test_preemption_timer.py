# SPDX-License-Identifier: GPL-2.0-or-later
"""The thread that ends runs: no kick is lost, and none comes unasked."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from framework.wait import DEADLINE
from pvtime.engine.unicorn.preemption_timer import PreemptionTimer

HOUR_NS = 3600 * 10**9


class Run:
    """What is kicked: counts, and lets the test wait."""

    def __init__(self) -> None:
        self.kicks = 0
        self._changed = threading.Condition()

    def kick(self) -> None:
        """End the run."""
        with self._changed:
            self.kicks += 1
            self._changed.notify_all()

    def wait_for(self, kicks: int) -> None:
        """Wait until so many kicks have come."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.kicks >= kicks, DEADLINE), "a kick is lost"


@pytest.fixture
def run() -> Run:
    """Return what is kicked."""
    return Run()


@pytest.fixture
def ticker(run: Run) -> Iterator[PreemptionTimer]:
    """Return a ticker that is started."""
    ticker = PreemptionTimer(run.kick)
    ticker.start()
    yield ticker
    ticker.close()


def test_a_deadline_that_is_past_kicks(ticker: PreemptionTimer, run: Run) -> None:
    ticker.arm(0)
    run.wait_for(1)


def test_a_deadline_kicks_when_it_has_come_and_not_before(ticker: PreemptionTimer, run: Run) -> None:
    deadline = time.monotonic_ns() + 20_000_000
    ticker.arm(deadline)
    run.wait_for(1)
    assert time.monotonic_ns() >= deadline


def test_a_kick_is_repeated_until_the_run_has_ended(ticker: PreemptionTimer, run: Run) -> None:
    ticker.arm(0)
    run.wait_for(5)


def test_an_earlier_deadline_does_not_wait_for_the_later_one(ticker: PreemptionTimer, run: Run) -> None:
    ticker.arm(time.monotonic_ns() + HOUR_NS)
    ticker.arm(time.monotonic_ns() + 1_000_000)
    run.wait_for(1)


def test_a_deadline_after_none_is_not_lost(ticker: PreemptionTimer, run: Run) -> None:
    ticker.arm(None)
    ticker.arm(time.monotonic_ns() + 1_000_000)
    run.wait_for(1)


def test_a_deadline_an_hour_away_or_disarmed_does_not_kick(run: Run) -> None:
    now = 0
    timer = PreemptionTimer(run.kick, lambda: now)
    timer.start()
    timer.arm(HOUR_NS)
    timer.arm(5_000_000)
    timer.disarm()
    now = 5_000_000
    timer.arm(HOUR_NS)
    assert run.kicks == 0
    now = HOUR_NS
    timer.arm(HOUR_NS - 1)  # an earlier one: it looks at the clock again
    run.wait_for(1)
    timer.close()


def test_a_hurry_kicks_whatever_the_deadline(ticker: PreemptionTimer, run: Run) -> None:
    ticker.arm(time.monotonic_ns() + HOUR_NS)
    ticker.preempt_now()
    run.wait_for(3)


def test_not_one_of_a_thousand_runs_is_left_without_its_kick(ticker: PreemptionTimer, run: Run) -> None:
    for number in range(1000):
        seen = run.kicks
        if number % 3 == 0:
            ticker.preempt_now()
        else:
            ticker.arm(time.monotonic_ns() + number % 7 * 10_000)
        run.wait_for(seen + 1)
        ticker.disarm()


def test_a_ticker_closes_while_it_kicks_while_it_sleeps_and_before_it_starts(run: Run) -> None:
    PreemptionTimer(run.kick).close()
    for deadline in None, 0, time.monotonic_ns() + HOUR_NS:
        ticker = PreemptionTimer(run.kick)
        ticker.start()
        ticker.arm(deadline)
        ticker.close()
        assert not ticker._thread.is_alive()
