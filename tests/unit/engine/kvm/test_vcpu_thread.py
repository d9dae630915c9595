# SPDX-License-Identifier: GPL-2.0-or-later
"""A vCPU's thread outside of the guest: calls, pauses, its exit. The descriptor is none of KVM's."""

from __future__ import annotations

import mmap
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from framework.wait import wait_until
from pvtime.abi.kvm_run import KvmRun
from pvtime.engine.base import Outcome
from pvtime.engine.kvm.injector import InjectedVcpu
from pvtime.engine.kvm.ioctl import KvmError
from pvtime.engine.kvm.mmio import MmioBus
from pvtime.engine.kvm.thread_times import ProcessStops, ThreadTimes
from pvtime.engine.kvm.vcpu_fd import VcpuFd
from pvtime.engine.kvm.vcpu_thread import KICK, VcpuThread, VcpuThreadState, install_kick
from pvtime.errors import PvtimeError
from pvtime.inject.schedule import Schedule
from pvtime.steal.kvm_truth import KvmTruth

asked, answer = threading.Event(), threading.Event()
"""The thread has asked whether its vCPU is off; it gets the answer."""


class NoKvm(VcpuFd):
    """A vCPU on /dev/null, where KVM_RUN is ENOTTY."""

    def __init__(self) -> None:
        self.index, self.name = 3, "vCPU 3"
        self.fd = os.open(os.devnull, os.O_RDWR)
        self.map = mmap.mmap(-1, mmap.PAGESIZE)
        self.kvm_run = KvmRun.from_buffer(self.map)
        self._owner = None

    def get_reg(self, register: int) -> int:
        return 0x4711

    def enter(self) -> None:
        raise InterruptedError

    @property
    def stopped(self) -> bool:
        asked.set()
        answer.wait()
        return False

    @stopped.setter
    def stopped(self, stopped: bool) -> None:
        raise AssertionError


class Failures(list[PvtimeError]):
    """The failures that the thread reports; nothing else can happen without a guest."""

    def end(self, outcome: Outcome) -> None:
        raise AssertionError(outcome)

    def restart(self) -> None:
        raise AssertionError

    def fail(self, error: PvtimeError) -> None:
        self.blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self.append(error)


@contextmanager
def vcpu_thread(injected: InjectedVcpu, failures: Failures) -> Iterator[tuple[VcpuThread, KvmTruth]]:
    """Make a thread, and have it exited at the end."""
    install_kick()
    asked.clear()
    answer.set()
    vcpu, truth = NoKvm(), KvmTruth(None)
    times = ThreadTimes(ProcessStops(), None)
    thread = VcpuThread(vcpu, MmioBus([]), truth, failures, 0, injected, times)
    yield thread, truth
    thread.leave()
    thread.join()
    assert f"pvtime-vcpu{vcpu.index}" not in {other.name for other in threading.enumerate()}
    thread.close()
    vcpu.close()


@pytest.fixture
def failures() -> Failures:
    """Return a list to which failures are added."""
    return Failures()


def test_nobody_waits_for_a_thread_that_has_not_started(failures: Failures) -> None:
    with vcpu_thread(InjectedVcpu(0, Schedule()), failures) as (thread, _):
        thread.pause()()
        thread.resume()()
        assert thread.sample().index == 3


def test_a_paused_thread_runs_calls_and_stays_out_of_the_guest(failures: Failures) -> None:
    with vcpu_thread(InjectedVcpu(0, Schedule()), failures) as (thread, _):
        thread.start(paused=True)
        for _ in range(20):
            assert thread.sample() == thread.sample()
            thread.pause()()
    assert failures == []


def test_a_paused_vcpu_keeps_the_figures_of_its_pause_to_the_end(failures: Failures) -> None:
    # The process that a guest had left went on to count: stolen time ran backwards in the one that took over.
    with vcpu_thread(InjectedVcpu(0, Schedule()), failures) as (thread, _):
        thread.start(paused=True)
        thread.refresh()
        paused = thread.sample()
        thread.leave()
        thread.join()
        assert thread.sample() == paused
    assert failures == []


def test_who_joins_a_thread_waits_for_its_end(monkeypatch: pytest.MonkeyPatch, failures: Failures) -> None:
    # It was not waited for once it took no calls any more.
    main, ended = VcpuThread._main, threading.Event()

    def lingering(self: VcpuThread) -> None:
        main(self)
        time.sleep(0.1)
        ended.set()

    monkeypatch.setattr(VcpuThread, "_main", lingering)
    with vcpu_thread(InjectedVcpu(0, Schedule()), failures) as (thread, _):
        thread.start(paused=True)
        thread.leave()
        wait_until(lambda: thread._state is VcpuThreadState.EXITED)
        thread.join()
        assert ended.is_set()


def test_a_thread_that_fails_says_where_and_nobody_waits_for_it(failures: Failures) -> None:
    with vcpu_thread(InjectedVcpu(0, Schedule()), failures) as (thread, _):
        thread.start(paused=True)
        wait = thread.resume()
        wait()
        for _ in range(20):
            thread.pause()()
            thread.sample()
    (failure,) = failures
    assert isinstance(failure, KvmError)
    assert str(failure).startswith("KVM_RUN (vCPU 3 at PC 0x4711): ENOTTY")


def test_a_threads_own_fault_is_not_blocked(failures: Failures) -> None:
    # A vCPU's thread died of SIGSEGV without faulthandler's traceback.
    with vcpu_thread(InjectedVcpu(0, Schedule()), failures) as (thread, _):
        thread.start(paused=False)
        wait_until(lambda: failures)
    assert signal.valid_signals() - failures.blocked >= {KICK, signal.SIGSEGV, signal.SIGBUS}
    assert {signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD} <= failures.blocked


def test_a_held_thread_stays_out_of_the_guest_until_the_quota_is_used_up(failures: Failures) -> None:
    injected = InjectedVcpu(0, Schedule.parse(["30ms"]))
    injected.start(0)
    with vcpu_thread(injected, failures) as (thread, truth):
        thread.start(paused=True)
        answer.clear()
        measuring = threading.Thread(target=thread.refresh)
        measuring.start()
        wait_until(asked.is_set)
        # The calls are pending while the thread measures, so it runs both before it enters the guest.
        thread.resume()
        injected.request_hold()
        thread.hold()
        answer.set()
        measuring.join()
        wait_until(lambda: failures, message="it did not enter the guest")
        assert truth.injected_ns == 30_000_000


def test_a_paused_vcpu_has_its_hold_request_cancelled(failures: Failures) -> None:
    injected = InjectedVcpu(0, Schedule.parse(["30ms"]))
    injected.start(0)
    with vcpu_thread(injected, failures) as (thread, truth):
        thread.start(paused=True)
        injected.request_hold()
        thread.hold()
        thread.sample()
        assert injected.next_due() is not None
    assert (failures, truth.injected_ns) == ([], 0)
