# SPDX-License-Identifier: GPL-2.0-or-later
"""Injection of steal into vCPUs that have a thread each.

The injector has a thread of its own. Where a quota is due to a vCPU whose thread runs, or waits for a CPU, it
requests a hold: the vCPU's thread leaves the guest, sleeps for the quota and adds that to the structure. KVM
adds to the count that it finds in the structure, and so keeps the addition. A vCPU whose thread sleeps in
KVM_RUN is idle, or off: it is polled until it wakes or the quota has expired. One whose thread sleeps for
Python's lock is neither: it is asked when it has the lock, and its quota does not expire.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum, auto
from typing import Final

from pvtime.host.schedstat import ThreadReader
from pvtime.inject.hold import Hold
from pvtime.inject.schedule import Schedule
from pvtime.steal.kvm_truth import KvmTruth

__all__ = ["HoldState", "InjectedVcpu", "StealInjector"]

POLL_INTERVAL_S: Final = 0.002
"""Time after its wake-up within which a vCPU with a due quota is noticed."""

MAX_WAIT_S: Final = 0.1
"""Limit of a wait for the next quota: a reset or a pause may change when it is due."""


class HoldState(Enum):
    """Progress of a hold. In each state one thread alone makes the next transition."""

    NONE = auto()
    """The injector's thread may request a hold."""
    REQUESTED = auto()
    """The vCPU's thread has to leave the guest, and begins or cancels the hold there."""
    HELD = auto()
    """The vCPU's thread keeps out of the guest, and ends the hold when the quota is used up."""


class InjectedVcpu:
    """Injection into one vCPU, from the machine's start to its end, across resets. Times in ns.

    Used by the vCPU's thread, but for :meth:`request_hold`, :meth:`note_sleep` and the properties.
    """

    def __init__(self, index: int, schedule: Schedule) -> None:
        self.pauses_steal = schedule.pauses
        self._index = index
        self._hold = Hold(schedule.pending(index), self._inject)
        self._state = HoldState.NONE
        self._held_since = 0
        self._slept_until = 0
        self._paused_since: int | None = None
        self._truth: KvmTruth | None = None

    @property
    def state(self) -> HoldState:
        """Progress of the hold."""
        return self._state

    @property
    def paused(self) -> bool:
        """Whether injection is suspended."""
        return self._paused_since is not None

    @property
    def release_at(self) -> int:
        """The end of the hold, where the vCPU is held."""
        return self._hold.release_at

    def next_due(self) -> int | None:
        """Return since when, or from when on, a quota is due; None: never again."""
        return self._hold.next_due()

    def remaining(self, now: int) -> int:
        """Return for how long from ``now`` on the vCPU must still be kept out of the guest."""
        return max(0, self._hold.release_at - now) if self._state is HoldState.HELD else 0

    # The injector's thread.

    def start(self, now: int) -> None:
        """Begin the schedule's time, before the vCPU runs."""
        self._hold.start(now)

    def note_sleep(self, now: int) -> None:
        """Note that the vCPU's thread has been asleep for a while at ``now``."""
        self._slept_until = now

    def request_hold(self) -> None:
        """Note that the vCPU's thread is being brought out of the guest for a hold."""
        if self._state is HoldState.NONE:
            self._state = HoldState.REQUESTED

    # The vCPU's thread, out of the guest.

    def reset(self, truth: KvmTruth) -> None:
        """End a hold at a reset, after which ``truth`` is the vCPU's. Neither thread uses this meanwhile."""
        self._truth = truth
        self._state = HoldState.NONE
        self._hold.reset()

    def begin_hold(self, now: int) -> None:
        """Begin the hold that was requested. The vCPU's figures are up to date."""
        self._hold.woke(self._slept_until)
        self._held_since = now
        self._state = HoldState.HELD

    def cancel(self) -> None:
        """Drop the request: the vCPU is off or paused, and has no use for a CPU."""
        self._state = HoldState.NONE

    def charge(self, now: int) -> None:
        """Account for what was stolen until ``now``, and end the hold where the quota is used up."""
        if self._state is HoldState.HELD and not self._hold.settle_until(now, self._held_since):
            self._state = HoldState.NONE

    def replace(self, schedule: Schedule, now: int) -> None:
        """Follow another schedule from ``now`` on, or from the end of a pause on; a hold ends.

        Also before the vCPU's thread starts.
        """
        waiting_since = self._held_since if self._state is HoldState.HELD else None
        now = now if self._paused_since is None else self._paused_since
        self._hold.replace(schedule.pending(self._index), now, waiting_since)
        if self._state is HoldState.HELD:
            self._state = HoldState.NONE

    def pause(self, now: int) -> None:
        """Suspend injection and account for what was injected so far."""
        self.resume(now)
        self.charge(now)
        self._paused_since = now

    def resume(self, now: int) -> None:
        """Resume injection where :meth:`pause` has suspended it."""
        if self._paused_since is not None:
            self._hold.resume(now - self._paused_since)
            self._paused_since = None

    def _inject(self, ns: int) -> None:
        assert self._truth is not None, "the machine has not started"
        self._truth.inject(ns)


class WatchedThread:
    """A vCPU's thread, as the kernel's scheduler sees it.

    :param thread: its statistics; closed with this.
    :param hold: bring the vCPU out of the guest and have its thread begin the hold.
    """

    def __init__(self, vcpu: InjectedVcpu, thread: ThreadReader, hold: Callable[[], object]) -> None:
        self.vcpu = vcpu
        self._thread = thread
        self._hold = hold
        self._timeslices = -1

    def poll(self, now: int) -> float:
        """Request a hold where a quota is due and the thread is awake.

        :param now: in ns.
        :return: the time until the next poll, in s.
        """
        vcpu = self.vcpu
        if vcpu.state is HoldState.REQUESTED:
            self.asleep(now)  # the instruction at which the vCPU is measured before may be a WFI
            return POLL_INTERVAL_S
        if vcpu.state is HoldState.HELD:
            return max(POLL_INTERVAL_S, (vcpu.release_at - now) / 1e9)
        if vcpu.paused:
            return POLL_INTERVAL_S
        due = vcpu.next_due()
        if due is None:
            return MAX_WAIT_S
        if due > now:
            return min(MAX_WAIT_S, (due - now) / 1e9)
        if not self.asleep(now):
            vcpu.request_hold()
            self._hold()
        return POLL_INTERVAL_S

    def asleep(self, now: int) -> bool:
        """Return whether the thread sleeps, or has exited; note a sleep in KVM_RUN since the last look."""
        figures = self._thread.read()
        if figures is None:
            return True
        asleep = figures.state == "S"
        if asleep and figures.timeslices == self._timeslices and self._thread.kvm_run_fd() is not None:
            self.vcpu.note_sleep(now)
        self._timeslices = figures.timeslices
        return asleep

    def close(self) -> None:
        """Close the files."""
        self._thread.close()


class StealInjector:
    """Injection into all vCPUs of a machine.

    :param schedule: while it is empty, there is no thread and no vCPU is ever held.
    """

    def __init__(self, schedule: Schedule, vcpus: int) -> None:
        self.pauses_steal = schedule.pauses
        """Time for which the machine is paused, or its process is stopped, is stolen."""
        self.vcpus = [InjectedVcpu(index, schedule) for index in range(vcpus)]
        self._injects = bool(schedule)
        self._threads: Sequence[tuple[int, Callable[[], object]]] = ()
        self._watched: list[WatchedThread] = []
        self._lock = threading.Lock()
        self._closed = False
        self._changed = threading.Event()
        """The injector's thread has something new to look at."""
        self._started = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin the schedule's time."""
        now = time.monotonic_ns()
        for vcpu in self.vcpus:
            vcpu.start(now)
        self._started = True
        self._start_thread()

    def inject(self, injects: bool) -> None:
        """Note that the vCPUs follow another schedule from now on.

        :param injects: whether there is anything in it.
        """
        self._injects = injects
        self._start_thread()
        self._changed.set()

    def _start_thread(self) -> None:
        if self._started and self._injects and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="pvtime-injector", daemon=True)
            self.watch(self._threads)
            self._thread.start()

    def watch(self, threads: Sequence[tuple[int, Callable[[], object]]]) -> None:
        """Watch the vCPUs' threads from now on, and those of before no longer.

        :param threads: for each vCPU, the number of its thread, and a function that brings it out of the
            guest and has it begin the hold.
        """
        with self._lock:
            self._threads = threads
            for watched in self._watched:
                watched.close()
            self._watched.clear()
            if not (self._injects or self._thread):
                return
            for vcpu, (tid, hold) in zip(self.vcpus, threads, strict=False):
                with suppress(ProcessLookupError):  # it has exited, and the engine is told why
                    self._watched.append(WatchedThread(vcpu, ThreadReader(os.getpid(), tid), hold))

    def close(self) -> None:
        """End injection."""
        self._closed = True
        self._changed.set()
        if self._thread is not None and self._thread.ident is not None:
            self._thread.join()
        self.watch([])

    def _run(self) -> None:
        wait = 0.0
        while True:
            self._changed.wait(wait)
            self._changed.clear()
            if self._closed:
                return
            with self._lock:
                now = time.monotonic_ns()
                wait = min((watched.poll(now) for watched in self._watched), default=POLL_INTERVAL_S)
