# SPDX-License-Identifier: GPL-2.0-or-later
"""run_delay, of a vCPU and of a thread."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvtime.errors import EngineError
from pvtime.steal.run_delay import RunDelay, Schedstat, ThreadClock

steps = st.lists(st.tuples(st.sampled_from(["wait", "run", "add"]), st.integers(0, 10**9)))


def test_waiting_counts_and_running_does_not() -> None:
    clock = RunDelay()
    clock.wait(100)
    assert (clock.waiting, clock.read(130)) == (True, 30)
    clock.settle(150)
    assert (clock.waiting, clock.read(500)) == (False, 50)


def test_a_wake_up_that_is_dated_later_than_now_counts_nothing_yet() -> None:
    clock = RunDelay()
    clock.wait(200)
    assert clock.read(150) == 0
    clock.settle(190)
    assert clock.read(1000) == 0


def test_what_the_thread_waited_is_added() -> None:
    clock = RunDelay()
    clock.settle(0)
    clock.add(40)
    clock.add(2)
    assert clock.read(100) == 42


@given(steps)
def test_it_never_decreases_while_time_passes(steps: list[tuple[str, int]]) -> None:
    clock, now, last = RunDelay(), 0, 0
    for step, span in steps:
        now += span
        if step == "add":
            clock.add(span)
        elif step == "run":
            clock.settle(now)
        elif step == "wait" and not clock.waiting:
            clock.wait(now)
        assert clock.read(now) >= last
        last = clock.read(now)


def test_a_threads_run_delay_is_the_second_figure_of_its_schedstat() -> None:
    tid = threading.get_native_id()
    schedstat = Schedstat(tid)
    try:
        path = Path(f"/proc/self/task/{tid}/schedstat")
        before = schedstat.run_delay()
        shown = int(path.read_text().split()[1])
        assert before <= shown <= schedstat.run_delay()
    finally:
        schedstat.close()


def test_a_thread_that_does_not_exist_has_no_statistics() -> None:
    with pytest.raises(EngineError, match="stolen time needs the host's scheduler statistics"):
        Schedstat(1 << 22)


def test_a_preemption_between_two_clocks_is_no_suspension_of_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    second = 10**9
    read = iter([7 * second - 30_000_000, 7 * second, 7 * second])  # the first one was preempted for 30 ms
    monkeypatch.setattr(ThreadClock, "suspended", lambda _: next(read, 7 * second))
    clock = ThreadClock()
    clock.attach()
    assert clock.newly_suspended() == 0
    monkeypatch.setattr(ThreadClock, "suspended", lambda _: 9 * second)
    assert clock.newly_suspended() == 2 * second
    clock.close()
