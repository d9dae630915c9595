# SPDX-License-Identifier: GPL-2.0-or-later
"""The order of events that come from several rings."""

from __future__ import annotations

from pvtime.watch.event_queue import EventQueue
from pvtime.watch.wait_tracker import WaitTracker
from pvtime.watch.waits import Activity

VCPU, HOG = 51, 70


def test_events_come_by_their_times_and_no_further_than_asked() -> None:
    queue = EventQueue()
    queue.add([(5, 1, (5, "b")), (9, 1, (9, "d"))])
    queue.add([(3, 0, (3, "a")), (7, 0, (7, "c"))])
    assert list(queue.take(7)) == [(0, (3, "a")), (1, (5, "b")), (0, (7, "c"))]
    assert list(queue.take(8)) == []
    assert list(queue.take(9)) == [(1, (9, "d"))]


def test_an_event_from_before_the_window_that_is_read_in_it_adds_no_time() -> None:
    """The columns of a vCPU summed to 0.1 ms more than had elapsed.

    The window began at a moment after the rings were read. What happened between the two came with its
    own time afterwards, and the vCPU's interval began again there, before the window.
    """
    tracker = WaitTracker(0, {VCPU: 1})
    queue = EventQueue()
    queue.add([(10, 1, (10, b"hog", HOG, 1, b"vcpu", VCPU))])
    window = 100
    for kind, record in queue.take(window):
        tracker.switch(kind, record)
    tracker.restart(window)
    queue.add([(98, 1, (98, b"vcpu", VCPU, 1, b"", 0)), (120, 1, (120, b"", 0, 0, b"vcpu", VCPU))])
    for kind, record in queue.take(150):
        tracker.switch(kind, record)
    tracker.finish(150)
    times = tracker.vcpus[VCPU].times
    assert sum(times.values()) == 150 - window
    assert times[Activity.SLEEPS] == 120 - window
