# SPDX-License-Identifier: GPL-2.0-or-later
"""Stealing on purpose from vCPUs that have a thread each.

A thread of its own looks at whoever owes something: a vCPU whose thread runs, or waits for a CPU, is brought
out of the guest, and then its thread sleeps for what is owed and adds that to the structure. KVM, which adds
to what it finds there, keeps the addition. A vCPU whose thread sleeps in KVM_RUN idles, or is off: it is
looked at again and again until it wakes or the debt has lapsed.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from pvtime.inject.hold import Hold
from pvtime.inject.schedule import Schedule
from pvtime.steal.kvm_truth import KvmTruth

__all__ = ["InjectedVcpu", "StealInjector"]

POLL_S: Final = 0.002
"""How soon after its wake-up a vCPU that owes something is noticed."""

MAX_WAIT_S: Final = 0.1
"""A reset or a pause may change what is due."""


class InjectedVcpu:
    """One vCPU that may be stolen from, from the machine's start to its end, whatever resets it sees.

    Used by the vCPU's thread, but for what the thief reads.
    """

    def __init__(self, index: int, schedule: Schedule) -> None:
        self.hold = Hold(schedule.pending(index), self._inject)
        self.asked = False
        """It has been asked to leave the guest, and has not paid yet. Set by the thief alone."""
        self.slept_until = 0
        """When the thief last saw that it had been asleep for a while."""
        self._truth: KvmTruth | None = None
        self._held_since: int | None = None
        self._paused_since: int | None = None

    def begin_life(self, truth: KvmTruth | None) -> None:
        """The machine starts, or starts anew: the vCPU has other books, or none."""
        self._truth = truth
        self._held_since = None
        self.asked = False
        self.hold.reset()

    def give_in(self, now: int) -> None:
        """The vCPU is out of the guest, with its figures up to date, and pays."""
        self._skip_pause(now)
        self.hold.woke(self.slept_until)
        self._held_since = now

    def let_go(self) -> None:
        """It is off, and has no use for a CPU."""
        self.asked = False

    def remaining(self, now: int) -> int:
        """Tell the books what was stolen until ``now``; return what is still to be paid, in ns."""
        self._skip_pause(now)
        if self._held_since is None:
            return 0
        if self.hold.settle_until(now, self._held_since):
            return self.hold.release_at - now
        self._held_since = None
        self.asked = False
        return 0

    @property
    def held(self) -> bool:
        """Whether it pays now."""
        return self._held_since is not None

    @property
    def paused(self) -> bool:
        """Whether nothing is stolen for now."""
        return self._paused_since is not None

    def pause(self, now: int) -> None:
        """From now on nothing is stolen; what was is told. The next call but this one ends it."""
        self.remaining(now)
        self._paused_since = now

    def _skip_pause(self, now: int) -> None:
        if self._paused_since is not None:
            self.hold.resume(now - self._paused_since)
            self._paused_since = None

    def _inject(self, ns: int) -> None:
        if self._truth is not None:
            self._truth.inject(ns)


class Watch:
    """What the kernel says of a vCPU's thread.

    :param ask: brings the vCPU out of the guest and has it pay.
    :raises FileNotFoundError: the thread is gone.
    """

    def __init__(self, victim: InjectedVcpu, tid: int, ask: Callable[[], object]) -> None:
        self.victim = victim
        self.ask = ask
        flags = os.O_RDONLY | os.O_CLOEXEC
        self._stat = os.open(f"/proc/self/task/{tid}/stat", flags)
        self._schedstat = os.open(f"/proc/self/task/{tid}/schedstat", flags)
        self._turns = -1

    def asleep(self, now: int) -> bool:
        """Whether the thread sleeps; note where it has since it was last looked at."""
        try:
            return self._asleep(now)
        except ProcessLookupError:  # it has ended
            return True

    def _asleep(self, now: int) -> bool:
        state = os.pread(self._stat, 512, 0).rpartition(b")")[2].split()[0]
        # The third is how often it was put on a CPU (the kernel's Documentation/scheduler/sched-stats.rst).
        turns = int(os.pread(self._schedstat, 64, 0).split()[2])
        if state == b"S" and turns == self._turns:
            self.victim.slept_until = now
        self._turns = turns
        return state == b"S"

    def close(self) -> None:
        """Give the descriptors back."""
        os.close(self._stat)
        os.close(self._schedstat)


class StealInjector:
    """Has a machine's vCPUs pay when they owe. Times in ns."""

    def __init__(self, schedule: Schedule, vcpus: int) -> None:
        self.victims = [InjectedVcpu(index, schedule) for index in range(vcpus)]
        self._watches: list[Watch] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pvtime-thief", daemon=True)

    def start(self) -> None:
        """The schedule's time begins."""
        now = time.monotonic_ns()
        for victim in self.victims:
            victim.hold.start(now)
        self._thread.start()

    def watch(self, threads: Sequence[tuple[int, Callable[[], object]]]) -> None:
        """Watch these threads from now on: each vCPU's, with what asks it to pay."""
        with self._lock:
            for watch in self._watches:
                watch.close()
            self._watches.clear()
            for victim, (tid, ask) in zip(self.victims, threads, strict=False):
                with suppress(FileNotFoundError):  # it has ended already, and the engine hears why
                    self._watches.append(Watch(victim, tid, ask))

    def close(self) -> None:
        """End."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
        self.watch([])

    def _run(self) -> None:
        wait = 0.0
        while not self._over.wait(wait):
            with self._lock:
                now = time.monotonic_ns()
                wait = min((self._look(watch, now) for watch in self._watches), default=POLL_S)

    @staticmethod
    def _look(watch: Watch, now: int) -> float:
        """Have the vCPU pay if it owes and is awake; return in how many seconds to look again."""
        victim = watch.victim
        if victim.asked and not victim.held:
            watch.asleep(now)  # the instruction at which it is to be measured may be a WFI
            return POLL_S
        if victim.asked:
            return max(POLL_S, (victim.hold.release_at - now) / 1e9)
        if victim.paused:
            return POLL_S
        due = victim.hold.next_due()
        if due is None:
            return MAX_WAIT_S
        if due > now:
            return min(MAX_WAIT_S, (due - now) / 1e9)
        if not watch.asleep(now):
            victim.asked = True
            watch.ask()
        return POLL_S
