# SPDX-License-Identifier: GPL-2.0-or-later
"""What of stealing on purpose on KVM needs no KVM: the books, whoever pays, and who is asleep."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from framework.structures import Structures
from pvtime.engine.kvm.injector import POLL_S, InjectedVcpu, StealInjector, Watch
from pvtime.inject.schedule import Schedule
from pvtime.steal.kvm_truth import KvmTruth


@pytest.fixture
def structures() -> Iterator[Structures]:
    """Return the memory of a structure."""
    structures = Structures()
    yield structures
    structures.map.close()


def victim(structures: Structures, *steal: str) -> tuple[InjectedVcpu, KvmTruth]:
    """Return a vCPU that may be stolen from, on a schedule that began at 0."""
    made, truth = InjectedVcpu(0, Schedule.parse(steal)), structures.truth()
    made.begin_life(truth)
    made.hold.start(0)
    return made, truth


def test_whoever_gives_in_pays_to_the_nanosecond(structures: Structures) -> None:
    one, truth = victim(structures, "1ms")
    assert one.remaining(400) == 0
    one.give_in(500)
    assert one.held
    assert one.remaining(500) == 1_000_000
    assert one.remaining(400_500) == 600_000
    assert (truth.injected_ns, one.held) == (400_000, True)
    assert one.remaining(9_000_000) == 0
    assert (truth.injected_ns, truth.figures, one.held) == (1_000_000, (1_000_000, 1_000_000), False)


def test_a_pause_is_not_paid_in(structures: Structures) -> None:
    one, truth = victim(structures, "1ms", "1ms@3ms")
    one.give_in(0)
    one.pause(400_000)
    assert one.paused
    assert truth.injected_ns == 400_000
    assert one.remaining(10_400_000) == 600_000
    assert not one.paused
    assert one.remaining(11_000_000) == 0
    assert truth.injected_ns == 1_000_000
    assert one.hold.next_due() == 13_000_000


def test_what_lapsed_while_the_thread_slept_is_not_owed(structures: Structures) -> None:
    one, truth = victim(structures, "1ms/10ms")
    one.slept_until = 45_000_000
    one.give_in(47_000_000)
    assert one.remaining(49_000_000) == 0
    assert truth.injected_ns == 1_000_000


class Thread:
    """A thread that sleeps or spins, as it is told."""

    def __init__(self) -> None:
        self._spin, self._over = threading.Event(), False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def tid(self) -> int:
        """The kernel's number of it."""
        return self._thread.native_id or 0

    def _run(self) -> None:
        while not self._over:
            self._spin.wait()

    def spin(self) -> None:
        """Be busy from now on."""
        self._spin.set()

    def end(self) -> None:
        """End, for the kernel too."""
        self._over = True
        self._spin.set()
        self._thread.join()
        while Path(f"/proc/self/task/{self.tid}").exists():
            pass


def test_who_sleeps_is_left_alone_and_who_runs_is_asked_once() -> None:
    thief, thread, asked = StealInjector(Schedule.parse(["1ms/10ms"]), 1), Thread(), list[int]()
    one = thief.victims[0]
    one.hold.start(0)
    watch = Watch(one, thread.tid, lambda: asked.append(1))
    try:
        while not one.slept_until:  # until it sleeps, and is seen to
            asked.clear()
            one.asked = False
            assert thief._look(watch, 1_000_000) == POLL_S
        for now in range(2_000_000, 200_000_000, 1_000_000):
            thief._look(watch, now)
        assert asked == []
        assert one.slept_until == 199_000_000
        thread.spin()
        while not asked:
            thief._look(watch, 200_000_000)
        for _ in range(100):
            thief._look(watch, 200_000_000)
        assert asked == [1]
    finally:
        thread.end()
    assert watch.asleep(0), "a thread that has ended is asked for nothing"
    watch.close()


def test_a_thread_that_has_ended_is_not_watched() -> None:
    thief, thread = StealInjector(Schedule.parse(["1ms"]), 1), Thread()
    tid = thread.tid
    thread.end()
    thief.watch([(tid, lambda: None)])
    assert thief._watches == []
    thief.close()
