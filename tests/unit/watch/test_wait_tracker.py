# SPDX-License-Identifier: GPL-2.0-or-later
"""Attribution of waits, with events of the test's own."""

from __future__ import annotations

import random
from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from pvtime.watch.wait_tracker import MAX_RUNNERS, WaitTracker
from pvtime.watch.waits import IDLE, OTHERS, QUOTA, UNKNOWN, Activity

VCPU, HOG, SIBLING = 51, 70, 52
RUNNABLE, ASLEEP, STOPPED = 0x100, 1, 4
MS = 1_000_000


def switch(
    at: int, before: int, after: int, state: int = RUNNABLE
) -> tuple[int, bytes, int, int, bytes, int]:
    """Return a record of sched_switch; a thread's name is its number."""
    return at * MS, b"%d" % before, before, state, b"%d" % after, after


def runner(tid: int) -> tuple[int, bytes]:
    """Return a thread as the tracker has it."""
    return tid, b"%d" % tid


def causes(tracker: WaitTracker, tid: int = VCPU) -> dict[tuple[int, bytes], int]:
    """Return a vCPU's causes in ms."""
    return {key: ns // MS for key, ns in tracker.vcpus[tid].causes.items() if ns}


def compare(tracker: WaitTracker, run_delay: int, uncounted: int = 0, at: int = 1_000_000) -> None:
    """Compare with the kernel's run_delay, in ms; by default long after all that happened.

    :param uncounted: arrivals that the kernel has recorded and not counted yet.
    """
    arrivals = tracker.vcpus[VCPU].arrivals
    tracker.compare(at * MS, VCPU, run_delay * MS, 1000 + arrivals - uncounted)


def test_a_preempted_vcpu_waits_for_those_who_run_on_its_cpu_in_turn() -> None:
    tracker = WaitTracker(0, {VCPU: 1})
    tracker.switch(1, switch(0, HOG, VCPU))
    tracker.switch(1, switch(10, VCPU, HOG))
    tracker.switch(0, switch(12, 99, 98))  # another CPU
    tracker.switch(1, switch(15, HOG, 71))
    tracker.switch(1, switch(16, 71, VCPU))
    tracker.finish(20 * MS)
    assert causes(tracker) == {runner(HOG): 5, runner(71): 1}
    times = tracker.vcpus[VCPU].times
    assert (times[Activity.RUNS], times[Activity.WAITS]) == (14 * MS, 6 * MS)
    assert tracker.vcpus[VCPU].longest_ns == 6 * MS


def test_a_woken_vcpu_waits_and_one_that_sleeps_does_not() -> None:
    tracker = WaitTracker(0, {VCPU: 1})
    tracker.switch(1, switch(0, 0, VCPU))
    tracker.switch(1, switch(5, VCPU, HOG, ASLEEP))
    tracker.wakeup((9 * MS, VCPU, 1))
    tracker.switch(1, switch(12, HOG, VCPU))
    tracker.wakeup((13 * MS, VCPU, 1))  # of a thread that runs: it means nothing
    tracker.finish(14 * MS)
    assert causes(tracker) == {runner(HOG): 3}
    assert tracker.vcpus[VCPU].times[Activity.SLEEPS] == 4 * MS


def test_a_vcpu_that_is_moved_waits_for_the_new_cpu() -> None:
    tracker = WaitTracker(0, {VCPU: 1})
    tracker.switch(0, switch(0, 97, 98))
    tracker.switch(1, switch(0, 0, VCPU))
    tracker.switch(1, switch(2, VCPU, HOG))
    tracker.migrate((5 * MS, VCPU, 0))
    tracker.switch(1, switch(6, HOG, 71))
    tracker.switch(0, switch(9, 98, VCPU))
    tracker.finish(9 * MS)
    assert causes(tracker) == {runner(HOG): 3, runner(98): 4}


def test_an_idle_cpu_that_was_slow_is_nobodys_fault() -> None:
    tracker = WaitTracker(0, {VCPU: 1})
    tracker.switch(1, switch(0, VCPU, 0, ASLEEP))
    tracker.wakeup((3 * MS, VCPU, 1))
    tracker.switch(1, switch(5, 0, VCPU))
    tracker.finish(6 * MS)
    assert causes(tracker) == {IDLE: 2}


def test_a_stopped_vcpu_is_not_stolen_from() -> None:
    tracker = WaitTracker(0, {VCPU: 1})
    tracker.switch(1, switch(2, VCPU, HOG, STOPPED))
    tracker.switch(1, switch(50, HOG, 71))
    tracker.finish(100 * MS)
    assert causes(tracker) == {}
    assert tracker.vcpus[VCPU].times[Activity.STOPPED] == 98 * MS


def test_two_vcpus_of_one_cpu_steal_from_each_other() -> None:
    tracker = WaitTracker(0, {VCPU: 1, SIBLING: 1})
    for at in range(0, 40, 10):
        tracker.switch(1, switch(at, SIBLING, VCPU))
        tracker.switch(1, switch(at + 4, VCPU, SIBLING))
    tracker.finish(40 * MS)
    assert causes(tracker) == {runner(SIBLING): 24}
    assert causes(tracker, SIBLING) == {runner(VCPU): 16}


def test_throttled_time_is_taken_from_the_end_of_the_wait() -> None:
    """A hog ran while the quota was used up: without the hog, the vCPU had not run either."""
    tracker = WaitTracker(0, {VCPU: 1}, limited=[VCPU])
    tracker.switch(1, switch(0, HOG, VCPU))
    tracker.switch(1, switch(10, VCPU, HOG))
    tracker.switch(1, switch(100, HOG, VCPU))
    tracker.throttle([VCPU], 90 * MS, 110 * MS, 70 * MS)
    tracker.switch(1, switch(120, VCPU, 0, ASLEEP))
    tracker.settle(120 * MS)
    assert causes(tracker) == {runner(HOG): 20, QUOTA: 70}


def test_throttled_time_of_several_cpus_is_divided_among_their_vcpus() -> None:
    tracker = WaitTracker(0, {VCPU: 0, SIBLING: 1}, limited=[VCPU, SIBLING])
    tracker.switch(0, switch(0, 0, VCPU))
    tracker.switch(1, switch(0, 0, SIBLING))
    tracker.switch(0, switch(40, VCPU, 0))
    tracker.switch(1, switch(60, SIBLING, 0))
    tracker.switch(0, switch(100, 0, VCPU))
    tracker.switch(1, switch(100, 0, SIBLING))
    tracker.throttle([VCPU, SIBLING], 95 * MS, 115 * MS, 100 * MS)
    tracker.finish(200 * MS)
    assert causes(tracker) == {QUOTA: 60}
    assert causes(tracker, SIBLING) == {QUOTA: 40}


def test_a_wait_that_lasts_at_the_end_is_the_quotas_if_it_is_told_so_later() -> None:
    tracker = WaitTracker(0, {VCPU: 1}, limited=[VCPU])
    tracker.switch(1, switch(0, 0, VCPU))
    tracker.switch(1, switch(10, VCPU, HOG))
    tracker.end_window(50 * MS)
    tracker.switch(1, switch(100, HOG, VCPU))
    tracker.switch(1, switch(105, VCPU, HOG))
    tracker.throttle([VCPU], 90 * MS, 110 * MS, 80 * MS)
    tracker.finish(120 * MS)
    assert causes(tracker) == {runner(HOG): 10, QUOTA: 30}
    assert sum(tracker.vcpus[VCPU].times.values()) == 50 * MS


def test_several_periods_between_two_readings_are_all_the_quotas() -> None:
    tracker = WaitTracker(0, {VCPU: 1}, limited=[VCPU])
    tracker.switch(1, switch(0, 0, VCPU))
    for at in range(1, 21, 5):
        tracker.switch(1, switch(at, VCPU, 0))
        tracker.switch(1, switch(at + 4, 0, VCPU))
    tracker.throttle([VCPU], 0, 22 * MS, 16 * MS)
    tracker.finish(22 * MS)
    assert causes(tracker) == {QUOTA: 16}


def test_the_window_begins_in_a_wait_of_which_only_the_rest_counts() -> None:
    tracker = WaitTracker(0, {VCPU: 1})
    tracker.switch(1, switch(0, HOG, VCPU))
    tracker.switch(1, switch(10, VCPU, HOG))
    tracker.restart(30 * MS)
    compare(tracker, 1000)
    tracker.switch(1, switch(50, HOG, VCPU))
    compare(tracker, 1040)
    tracker.finish(60 * MS)
    found = tracker.vcpus[VCPU]
    assert causes(tracker) == {runner(HOG): 20}
    assert (found.counted_ns, found.missing_ns) == (40 * MS, 0)
    assert sum(found.times.values()) == 30 * MS


def test_what_the_kernel_counted_and_the_trace_has_not_is_missing() -> None:
    tracker = WaitTracker(0, {VCPU: 1})
    tracker.switch(1, switch(0, HOG, VCPU))
    compare(tracker, 500)
    tracker.switch(1, switch(10, VCPU, HOG))
    tracker.switch(1, switch(15, HOG, VCPU))
    compare(tracker, 508)
    assert (tracker.vcpus[VCPU].counted_ns, tracker.vcpus[VCPU].missing_ns) == (8 * MS, 3 * MS)


def test_a_wait_that_is_recorded_and_not_counted_yet_is_not_missing() -> None:
    """Seen in the lab: 5 ms of 4 s, since the record of an arrival is written before it is counted."""
    tracker = WaitTracker(0, {VCPU: 1})
    tracker.switch(1, switch(0, HOG, VCPU))
    tracker.switch(1, switch(10, VCPU, HOG))
    tracker.switch(1, switch(15, HOG, VCPU))
    compare(tracker, 500, uncounted=1, at=15)
    assert tracker.vcpus[VCPU].checked is None, "too soon to tell"
    tracker.switch(1, switch(20, VCPU, HOG))
    compare(tracker, 505)
    tracker.switch(1, switch(24, HOG, VCPU))
    compare(tracker, 505, uncounted=1, at=24)
    assert (tracker.vcpus[VCPU].counted_ns, tracker.vcpus[VCPU].missing_ns) == (0, 0)
    compare(tracker, 509, at=25)
    assert (tracker.vcpus[VCPU].counted_ns, tracker.vcpus[VCPU].missing_ns) == (4 * MS, 0)


def test_a_vcpu_that_is_always_just_put_on_its_cpu_is_compared_all_the_same() -> None:
    tracker = WaitTracker(0, {VCPU: 1})
    for at in range(0, 40, 2):
        tracker.switch(1, switch(at, HOG, VCPU))
        compare(tracker, 500 + at // 2, at=at + 1)
        tracker.switch(1, switch(at + 1, VCPU, HOG))
    assert tracker.vcpus[VCPU].counted_ns > 0


def test_what_a_vcpu_waited_in_a_queue_that_it_left_is_counted_already() -> None:
    """kernel/sched/stats.h, sched_info_dequeue."""
    tracker = WaitTracker(0, {VCPU: 1})
    tracker.switch(1, switch(0, HOG, VCPU))
    compare(tracker, 500)
    tracker.switch(1, switch(10, VCPU, HOG))
    tracker.migrate((13 * MS, VCPU, 0))
    compare(tracker, 503)
    assert (tracker.vcpus[VCPU].counted_ns, tracker.vcpus[VCPU].missing_ns) == (3 * MS, 0)
    tracker.switch(0, switch(14, 71, VCPU))
    compare(tracker, 504)
    assert (tracker.vcpus[VCPU].counted_ns, tracker.vcpus[VCPU].missing_ns) == (4 * MS, 0)


def test_a_switch_that_is_missing_is_noticed_and_accuses_nobody() -> None:
    """Seen on one host: its kernel traces nothing of some threads."""
    tracker = WaitTracker(0, {VCPU: 1})
    tracker.switch(1, switch(0, HOG, VCPU))
    tracker.switch(1, switch(10, VCPU, 75))
    tracker.switch(1, switch(19, HOG, VCPU))  # 75 gave way to the hog meanwhile
    tracker.finish(20 * MS)
    assert causes(tracker) == {UNKNOWN: 9}
    assert tracker.lost_switches == 1


def test_a_thread_that_is_not_traced_has_what_it_ran_and_who_came_next_has_the_rest() -> None:
    tracker = WaitTracker(0, {VCPU: 1})
    tracker.switch(1, switch(0, HOG, VCPU))
    tracker.switch(1, switch(10, VCPU, 75))
    tracker.switch(1, switch(19, HOG, VCPU))  # 75 gave way to the hog meanwhile
    tracker.switch(1, switch(20, VCPU, 75, ASLEEP))
    tracker.wakeup((25 * MS, VCPU, 1))
    tracker.switch(1, switch(30, HOG, VCPU))
    assert tracker.share_gaps(runner(75), 13 * MS) == 13 * MS  # 6.5 ms in each
    tracker.finish(31 * MS)
    assert {key: ns for key, ns in tracker.vcpus[VCPU].causes.items() if ns} == {
        runner(75): 8 * MS,
        runner(HOG): 6 * MS,
    }
    assert tracker.share_gaps(runner(75), 5 * MS) == 0


def test_an_idle_thread_that_is_not_traced_left_its_cpu_when_a_vcpu_waited() -> None:
    tracker = WaitTracker(0, {VCPU: 1})
    tracker.switch(1, switch(0, HOG, VCPU))
    tracker.switch(1, switch(5, VCPU, 0, ASLEEP))
    tracker.wakeup((8 * MS, VCPU, 1))
    tracker.switch(1, switch(12, HOG, VCPU))
    tracker.finish(13 * MS)
    assert causes(tracker) == {runner(HOG): 4}


def test_where_records_were_lost_nobody_is_accused() -> None:
    tracker = WaitTracker(0, {VCPU: 1})
    tracker.complete = False
    tracker.switch(1, switch(0, HOG, VCPU))
    tracker.switch(1, switch(10, VCPU, 0))
    tracker.switch(1, switch(19, HOG, 75))
    tracker.switch(1, switch(20, HOG, VCPU))
    tracker.finish(30 * MS)
    assert causes(tracker) == {UNKNOWN: 10}
    assert not tracker.gaps


def test_an_arrival_that_is_missing_ends_the_wait_at_the_last_record() -> None:
    tracker = WaitTracker(0, {VCPU: 1})
    tracker.switch(1, switch(0, HOG, VCPU))
    tracker.switch(1, switch(10, VCPU, HOG))
    tracker.switch(1, switch(13, HOG, 75))
    tracker.switch(1, switch(20, VCPU, HOG))
    tracker.finish(22 * MS)
    assert causes(tracker) == {runner(HOG): 5}


def test_an_arrival_that_is_missing_is_found_by_what_the_kernel_counted() -> None:
    tracker = WaitTracker(0, {VCPU: 1})
    tracker.switch(1, switch(0, HOG, VCPU))
    compare(tracker, 500)
    tracker.switch(1, switch(10, VCPU, HOG))
    tracker.switch(1, switch(13, HOG, 75))
    tracker.switch(1, switch(20, VCPU, HOG))  # 75 gave way to it meanwhile, without a record
    tracker.switch(1, switch(21, HOG, VCPU))
    compare(tracker, 508)  # 3 and 1 were traced, so it waited 4 for 75
    tracker.finish(22 * MS)
    assert causes(tracker) == {runner(HOG): 4, runner(75): 4}
    times = tracker.vcpus[VCPU].times
    assert (times[Activity.RUNS], times[Activity.WAITS]) == (14 * MS, 8 * MS)
    assert tracker.vcpus[VCPU].missing_ns == 0
    assert runner(75) in tracker.new_runners


def test_no_more_than_the_span_is_found_and_nothing_of_before_the_window() -> None:
    tracker = WaitTracker(0, {VCPU: 1}, [VCPU])
    tracker.switch(1, switch(0, HOG, VCPU))
    compare(tracker, 0)
    tracker.switch(1, switch(10, VCPU, HOG))
    tracker.switch(1, switch(20, VCPU, 0, ASLEEP))  # before the window
    tracker.restart(30 * MS)
    compare(tracker, 50)
    tracker.wakeup((31 * MS, VCPU, 1))
    tracker.switch(1, switch(36, VCPU, 0, ASLEEP))
    compare(tracker, 150)
    tracker.finish(40 * MS)
    assert causes(tracker) == {UNKNOWN: 5}  # an idle CPU, or its quota
    assert tracker.vcpus[VCPU].missing_ns == 145 * MS


def test_a_departure_that_is_missing_leaves_no_vcpu_running_for_ever() -> None:
    tracker = WaitTracker(0, {VCPU: 1})
    tracker.switch(1, switch(0, HOG, VCPU))
    tracker.switch(1, switch(10, 75, HOG))
    tracker.wakeup((12 * MS, VCPU, 1))
    tracker.switch(1, switch(15, HOG, VCPU))
    tracker.finish(15 * MS)
    assert causes(tracker) == {runner(HOG): 3}


def test_a_vcpu_without_any_event_is_what_its_state_says() -> None:
    tracker = WaitTracker(0, {VCPU: 1, SIBLING: 0})
    tracker.resolve(VCPU, Activity.SLEEPS)
    tracker.switch(0, switch(5, HOG, 71))
    tracker.resolve(SIBLING, Activity.WAITS)
    tracker.finish(10 * MS)
    assert tracker.vcpus[VCPU].times[Activity.SLEEPS] == 10 * MS
    assert causes(tracker, SIBLING) == {runner(HOG): 5, runner(71): 5}


def test_a_storm_of_threads_takes_bounded_memory() -> None:
    tracker = WaitTracker(0, {VCPU: 1})
    tracker.switch(1, switch(0, VCPU, 1000))
    for at in range(MAX_RUNNERS + 10):
        tracker.switch(1, switch(at + 1, 1000 + at, 1001 + at))
    tracker.finish((MAX_RUNNERS + 20) * MS)
    assert len(tracker.vcpus[VCPU].causes) <= MAX_RUNNERS + 2
    assert tracker.vcpus[VCPU].causes[OTHERS] > 0


@given(st.integers(0, 2**32), st.booleans(), st.booleans())
def test_whatever_happens_the_causes_sum_to_the_waits_and_the_times_to_the_window(
    seed: int, lossy: bool, limited: bool
) -> None:
    chance = random.Random(seed)
    tids = [VCPU, SIBLING, HOG, 71]
    tracker = WaitTracker(
        0, {VCPU: 0, SIBLING: 1}, [VCPU, SIBLING] if limited else [], chance.choice([0, 50])
    )
    running: defaultdict[int, int] = defaultdict(int)
    now = 0
    for _ in range(60):
        now += chance.randrange(3)
        cpu, tid = chance.randrange(2), chance.choice(tids)
        what = chance.randrange(10)
        if what < 6:
            after = chance.choice([0, *[tid for tid in tids if tid not in running.values()]])
            before, running[cpu] = running[cpu], after
            if before != after and not (lossy and chance.random() < 0.2):
                tracker.switch(cpu, switch(now, before, after, chance.choice([RUNNABLE, ASLEEP, STOPPED])))
        elif what == 6:
            tracker.wakeup((now * MS, tid, cpu))
        elif what == 7:
            tracker.migrate((now * MS, tid, cpu))
            if tid in tracker.vcpus:
                counted = (
                    chance.randrange(2 * now * MS + 1),
                    tracker.vcpus[tid].arrivals - chance.randrange(2),
                )
                tracker.compare(now * MS, tid, *counted)
        elif what == 8:
            for left in list(tracker.gaps):
                tracker.share_gaps(left, chance.randrange(9) * MS)
            tracker.throttle([VCPU, SIBLING], (now - 2) * MS, now * MS, chance.randrange(5) * MS)
        else:
            tracker.settle((now - 1) * MS)
    tracker.finish(now * MS)
    for vcpu in tracker.vcpus.values():
        assert sum(vcpu.times.values()) == now * MS
        assert sum(vcpu.causes.values()) == vcpu.times[Activity.WAITS]
        assert min(vcpu.causes.values(), default=0) >= 0
