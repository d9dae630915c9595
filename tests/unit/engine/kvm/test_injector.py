# SPDX-License-Identifier: GPL-2.0-or-later
"""The parts of injection on KVM that need no KVM: holds, their account, and sleeping threads."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from framework.fake_proc import FakeProc
from framework.structures import Structures
from framework.wait import DEADLINE, wait_until
from pvtime.engine.kvm.injector import (
    POLL_INTERVAL_S,
    HoldState,
    InjectedVcpu,
    StealInjector,
    WatchedThread,
)
from pvtime.host.schedstat import ThreadReader
from pvtime.inject.schedule import NOTHING, Schedule
from pvtime.steal.kvm_truth import KvmTruth


@pytest.fixture
def structures() -> Iterator[Structures]:
    """Return the memory of a structure."""
    structures = Structures()
    yield structures
    structures.map.close()


def injected_vcpu(structures: Structures, *steal: str) -> tuple[InjectedVcpu, KvmTruth]:
    """Return a vCPU with a schedule that began at 0, and its truth."""
    vcpu, truth = InjectedVcpu(0, Schedule.parse(steal)), structures.truth()
    vcpu.reset(truth)
    vcpu.start(0)
    return vcpu, truth


def charged(vcpu: InjectedVcpu, now: int) -> int:
    """Charge until ``now``; return the rest of the hold."""
    vcpu.charge(now)
    return vcpu.remaining(now)


def test_a_hold_injects_its_quota_to_the_nanosecond(structures: Structures) -> None:
    vcpu, truth = injected_vcpu(structures, "1ms")
    assert charged(vcpu, 400) == 0
    vcpu.request_hold()
    assert (charged(vcpu, 450), vcpu.state) == (0, HoldState.REQUESTED)
    vcpu.begin_hold(500)
    assert charged(vcpu, 500) == 1_000_000
    assert charged(vcpu, 400_500) == 600_000
    assert (truth.injected_ns, vcpu.state) == (400_000, HoldState.HELD)
    assert charged(vcpu, 9_000_000) == 0
    assert (truth.injected_ns, truth.figures) == (1_000_000, (1_000_000, 1_000_000))
    assert vcpu.state is HoldState.NONE


def test_a_query_of_the_rest_of_a_hold_charges_nothing(structures: Structures) -> None:
    vcpu, truth = injected_vcpu(structures, "1ms")
    vcpu.begin_hold(0)
    vcpu.charge(0)
    assert [vcpu.remaining(now) for now in (0, 400_000, 2_000_000)] == [1_000_000, 600_000, 0]
    assert (truth.injected_ns, vcpu.state) == (0, HoldState.HELD)


def test_a_request_that_is_cancelled_leaves_the_quota_due(structures: Structures) -> None:
    vcpu, truth = injected_vcpu(structures, "1ms")
    vcpu.request_hold()
    vcpu.cancel()
    assert (vcpu.state, vcpu.next_due()) == (HoldState.NONE, 0)
    vcpu.begin_hold(5)
    vcpu.request_hold()
    assert vcpu.state is HoldState.HELD, "one hold at a time"
    assert charged(vcpu, 2_000_000) == 0
    assert truth.injected_ns == 1_000_000


def test_nothing_is_injected_while_the_vcpu_is_paused(structures: Structures) -> None:
    vcpu, truth = injected_vcpu(structures, "1ms", "1ms@3ms")
    vcpu.begin_hold(0)
    vcpu.charge(0)
    vcpu.pause(400_000)
    assert vcpu.paused
    assert truth.injected_ns == 400_000
    vcpu.resume(10_400_000)
    assert not vcpu.paused
    assert charged(vcpu, 10_400_000) == 600_000
    assert charged(vcpu, 11_000_000) == 0
    assert truth.injected_ns == 1_000_000
    assert vcpu.next_due() == 13_000_000


def test_a_second_pause_does_not_lose_the_first_one(structures: Structures) -> None:
    vcpu, _ = injected_vcpu(structures, "1ms@3ms")
    vcpu.pause(1_000_000)
    vcpu.pause(5_000_000)
    vcpu.resume(6_000_000)
    assert vcpu.next_due() == 8_000_000


def test_a_reset_ends_a_hold_and_the_schedule_continues(structures: Structures) -> None:
    vcpu, old = injected_vcpu(structures, "1ms", "1ms@3ms")
    vcpu.begin_hold(0)
    vcpu.charge(400_000)
    new = structures.truth()
    vcpu.reset(new)
    assert (vcpu.state, charged(vcpu, 900_000)) == (HoldState.NONE, 0)
    assert (old.injected_ns, new.injected_ns, vcpu.next_due()) == (400_000, 0, 3_000_000)


def test_quotas_that_expired_while_the_thread_slept_are_not_injected(structures: Structures) -> None:
    vcpu, truth = injected_vcpu(structures, "1ms/10ms")
    vcpu.note_sleep(45_000_000)
    vcpu.begin_hold(47_000_000)
    assert charged(vcpu, 49_000_000) == 0
    assert truth.injected_ns == 1_000_000


class Thread:
    """A thread that sleeps, and spins once it is told to."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self._over = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def tid(self) -> int:
        """The kernel's number of the thread."""
        return self._thread.native_id or 0

    @property
    def rests(self) -> bool:
        """Whether it sleeps until it is told to spin, and not for Python's lock."""
        call = Path(f"/proc/self/task/{self.tid}/syscall").read_text().split()
        return len(call) > 1 and int(call[1], 16) == self._read

    def _run(self) -> None:
        os.read(self._read, 1)
        while not self._over:
            pass

    def spin(self) -> None:
        """Spin from now on."""
        os.write(self._write, b"x")

    def end(self) -> None:
        """Exit, for the kernel too."""
        self._over = True
        self.spin()
        self._thread.join()
        wait_until(lambda: not Path(f"/proc/self/task/{self.tid}").exists())
        os.close(self._read)
        os.close(self._write)


class Sleeper(InjectedVcpu):
    """A vCPU that lists the times at which its thread was seen asleep."""

    def __init__(self, index: int, schedule: Schedule) -> None:
        super().__init__(index, schedule)
        self.slept: list[int] = []

    def note_sleep(self, now: int) -> None:
        self.slept.append(now)


def test_a_sleeping_thread_is_left_alone_and_a_running_one_is_asked_once() -> None:
    thread, requests = Thread(), list[int]()
    vcpu = InjectedVcpu(0, Schedule.parse(["1ms/10ms"]))
    vcpu.start(0)
    watched = WatchedThread(vcpu, ThreadReader(os.getpid(), thread.tid), lambda: requests.append(1))
    try:
        wait_until(lambda: thread.rests)
        assert watched.asleep(0)
        for now in range(2_000_000, 200_000_000, 1_000_000):
            assert watched.poll(now) == POLL_INTERVAL_S
        assert requests == []
        thread.spin()
        while not requests:
            watched.poll(200_000_000)
        for _ in range(100):
            watched.poll(200_000_000)
        assert requests == [1]
    finally:
        thread.end()
    assert watched.asleep(0), "a thread that has exited gets no request"
    watched.close()


KVM_RUN = "29 0xb 0xae80 0x0 0x0 0x0 0x0 0xffffc5d0c5d0 0xffff9a1c9a1c"
FUTEX = "98 0xaaaae0 0x189 0x0 0x0 0x0 0xffffffff 0xffffc5d0c5d0 0xffff9a1c9a1c"


@pytest.mark.parametrize(("syscall", "idle"), [(KVM_RUN, True), (FUTEX, False)], ids=["KVM_RUN", "lock"])
def test_a_quota_expires_where_the_vcpu_idles_and_not_where_its_thread_waits_for_a_lock(
    syscall: str, idle: bool, tmp_path: Path
) -> None:
    # A busy vCPU lost quotas while its thread waited for Python's lock: 241 ms were injected instead of 285.
    vcpu = Sleeper(0, Schedule.parse(["1ms/10ms"]))
    vcpu.start(0)
    proc = FakeProc(tmp_path)
    proc.process(1, b"pvtime", threads={7: b"pvtime-vcpu0"})
    proc.times(1, 7, slices=6)
    tmp_path.joinpath("1/task/7/syscall").write_text(syscall)
    requests = list[int]()
    watched = WatchedThread(vcpu, ThreadReader(1, 7, tmp_path), lambda: requests.append(1))
    for now in range(1, 4):
        assert watched.poll(now) == POLL_INTERVAL_S
    proc.times(1, 7, slices=7)
    watched.poll(4)
    assert requests == []
    assert vcpu.slept == ([2, 3] if idle else [])
    watched.close()


def test_a_thread_that_has_exited_is_not_watched() -> None:
    injector, thread = StealInjector(Schedule.parse(["1ms"]), 1), Thread()
    tid = thread.tid
    thread.end()
    injector.watch([(tid, lambda: None)])
    assert injector._watched == []
    injector.close()


def test_another_schedule_ends_a_hold_and_begins_where_it_was_set(structures: Structures) -> None:
    vcpu, truth = injected_vcpu(structures, "5ms")
    vcpu.begin_hold(0)
    vcpu.replace(Schedule.parse(["2ms@1ms"]), 400_000)
    assert (vcpu.state, truth.injected_ns, truth.figures) == (HoldState.NONE, 400_000, (400_000, 400_000))
    assert vcpu.next_due() == 1_400_000
    vcpu.request_hold()
    vcpu.begin_hold(2_000_000)
    assert charged(vcpu, 9_000_000) == 0
    assert truth.injected_ns == 2_400_000


def test_a_schedule_that_is_set_in_a_pause_begins_behind_it(structures: Structures) -> None:
    vcpu, _ = injected_vcpu(structures, "5ms")
    vcpu.pause(1_000_000)
    vcpu.replace(Schedule.parse(["2ms@1ms"]), 3_000_000)
    vcpu.resume(7_000_000)
    assert vcpu.next_due() == 8_000_000


def test_a_first_schedule_starts_to_watch_the_threads_at_once() -> None:
    injector, thread = StealInjector(NOTHING, 1), Thread()
    asked = threading.Event()
    injector.start()
    injector.watch([(thread.tid, asked.set)])
    thread.spin()
    injector.vcpus[0].replace(Schedule.parse(["1s"]), time.monotonic_ns())
    injector.inject(True)
    try:
        assert asked.wait(DEADLINE)
    finally:
        thread.end()
        injector.close()


def test_without_a_schedule_nothing_is_watched_and_no_vcpu_is_held() -> None:
    injector = StealInjector(NOTHING, 1)
    injector.start()
    injector.watch([(threading.get_native_id(), lambda: None)])
    assert injector._watched == []
    injector.vcpus[0].charge(1)
    assert injector.vcpus[0].remaining(1) == 0
    injector.close()
