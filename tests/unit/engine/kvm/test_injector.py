# SPDX-License-Identifier: GPL-2.0-or-later
"""What of stealing on purpose on KVM needs no KVM: the books, whoever pays, and who is asleep."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pvtime.abi.pvtime import StolenTime
from pvtime.engine.kvm.injector import POLL_S, InjectedVcpu, StealInjector, Watch
from pvtime.engine.kvm.truth import Truth
from pvtime.inject.schedule import Schedule
from pvtime.machine.layout import STOLEN_TIME
from pvtime.machine.memory import GuestMemory

DEADLINE = 30


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    """Return the structures' memory."""
    memory = GuestMemory(STOLEN_TIME.base, STOLEN_TIME.size, STOLEN_TIME.name)
    yield memory
    memory.close()


def kernel_adds(memory: GuestMemory, ns: int) -> None:
    """Bring the first structure up to date as KVM does."""
    ipa = STOLEN_TIME.base + StolenTime.stolen_time.offset
    memory.store_u64(ipa, memory.load_u64(ipa) + ns)


def test_truth_and_structure_agree_on_what_the_kernel_and_the_thief_add(memory: GuestMemory) -> None:
    truth = Truth(memory, 0)
    kernel_adds(memory, 700)
    assert truth.measure(700) == (700, 700)
    truth.inject(1000)
    assert truth.figures == (1700, 1700)
    kernel_adds(memory, 50)
    assert truth.measure(750) == (1750, 1750)
    assert truth.injected_ns == 1000


def test_a_guest_that_asks_for_stolen_time_starts_anew_with_nothing_injected(memory: GuestMemory) -> None:
    truth = Truth(memory, 0)
    truth.measure(700)
    truth.inject(1000)
    memory.write(STOLEN_TIME.base, bytes(64))  # PV_TIME_ST, at run_delay 710
    kernel_adds(memory, 20)
    assert truth.measure(730) == (20, 20)
    assert (truth.enabled, truth.injected_ns) == (True, 0)


def test_a_guest_that_fills_its_structure_deceives_only_itself(memory: GuestMemory) -> None:
    truth = Truth(memory, 0)
    truth.measure(0)
    memory.store_u64(STOLEN_TIME.base + StolenTime.stolen_time.offset, 2**64 - 1)
    truth.inject(1000)
    assert truth.structure() == 999
    assert truth.figures[0] == 1000


def victim(memory: GuestMemory, *steal: str) -> tuple[InjectedVcpu, Truth]:
    """Return a vCPU that may be stolen from, on a schedule that began at 0."""
    made, truth = InjectedVcpu(0, Schedule.parse(steal)), Truth(memory, 0)
    made.begin_life(truth)
    made.hold.start(0)
    return made, truth


def test_whoever_gives_in_pays_to_the_nanosecond(memory: GuestMemory) -> None:
    one, truth = victim(memory, "1ms")
    assert one.remaining(400) == 0
    one.give_in(500)
    assert one.held
    assert one.remaining(500) == 1_000_000
    assert one.remaining(400_500) == 600_000
    assert (truth.injected_ns, one.held) == (400_000, True)
    assert one.remaining(9_000_000) == 0
    assert (truth.injected_ns, truth.figures, one.held) == (1_000_000, (1_000_000, 1_000_000), False)


def test_a_pause_is_not_paid_in(memory: GuestMemory) -> None:
    one, truth = victim(memory, "1ms", "1ms@3ms")
    one.give_in(0)
    one.pause(400_000)
    assert one.paused
    assert truth.injected_ns == 400_000
    assert one.remaining(10_400_000) == 600_000
    assert not one.paused
    assert one.remaining(11_000_000) == 0
    assert truth.injected_ns == 1_000_000
    assert one.hold.due() == 13_000_000


def test_what_lapsed_while_the_thread_slept_is_not_owed(memory: GuestMemory) -> None:
    one, truth = victim(memory, "1ms/10ms")
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
