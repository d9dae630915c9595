# SPDX-License-Identifier: GPL-2.0-or-later
"""The one emulated CPU as its vCPUs share it: who is on it, until when, and what that takes from whom."""

from __future__ import annotations

import time

from pvtime.engine.unicorn.core import Exit
from pvtime.engine.unicorn.parts import Parts
from pvtime.engine.unicorn.scheduler import turn_ns
from pvtime.engine.unicorn.vcpu import State, Vcpu
from pvtime.errors import EngineError
from pvtime.steal.run_delay import Schedstat

__all__ = ["SharedCpu"]


class SharedCpu:
    """Puts vCPUs on the CPU and takes them off it. Times in ns."""

    def __init__(self, parts: Parts) -> None:
        self._core = parts.core
        self._ticker = parts.ticker
        self._gic = parts.gic
        self._vcpus = parts.vcpus
        self._mpidrs = parts.machine.mpidrs
        self.current: Vcpu | None = None
        """Who is on the CPU."""
        self.delay = 0
        """The engine thread's own run_delay after the last slice."""
        self._clock: Schedstat
        """The engine thread's, from the first slice on."""
        self._running = False
        self._credited = self._slice_ended = self._kept = 0

    @property
    def loaded(self) -> Vcpu:
        """The vCPU that is on the CPU.

        :raises EngineError: none is.
        """
        if self.current is None:
            raise EngineError("no vCPU is on the CPU")
        return self.current

    def switch(self, vcpu: Vcpu) -> None:
        """Put another vCPU on the CPU."""
        self.leave()
        if vcpu.context is None:
            # Not in the call that switched it on: to borrow the CPU's registers in the midst of a run now and
            # then corrupted the caller, seen as Oopses of CPU 0 in one of some 60 onlinings of another CPU.
            vcpu.context = self._core.contexts.new(self._mpidrs[vcpu.index], *vcpu.start)
        self._core.contexts.load(vcpu.context)
        self.current = vcpu
        self._gic.current = vcpu.index
        self._core.set_irq(vcpu.irq)

    def leave(self) -> None:
        """Take whoever is on the CPU off it, with its registers."""
        last, self.current = self.current, None
        if last is not None and last.state is not State.OFF:
            self._core.contexts.save(last.context)
            if last.state is State.RUNNABLE:
                if not last.clock.waiting:  # else it has idled here, and waits since it was woken
                    last.clock.wait(self._slice_ended)
                last.account.preempt()

    def slice(self, vcpu: Vcpu, clock: Schedstat) -> None:
        """Load the vCPU, which is on the CPU, and run it until it idles or its time is over."""
        start, thread_delay = clock.read()
        if vcpu.clock.waiting:
            # What the thread itself waited until here is part of the vCPU's wait.
            self.delay = thread_delay
        self._credited, self._kept = start, 0
        vcpu.account.vcpu_load(vcpu.clock.settle(start))
        vcpu.loads += 1
        self._ticker.arm(self._slice_end())
        self._clock = clock
        self._running = True
        left = self._core.run()
        self._running = False
        self._ticker.disarm()
        self._slice_ended = vcpu.ran_until = end = self.catch_up()
        vcpu.ran_ns += max(0, end - start - self._kept)
        vcpu.virtual_ns += max(0, end - self._credited - self._kept)
        if left is Exit.IDLE and vcpu.state is State.RUNNABLE and not vcpu.irq:
            vcpu.state = State.IDLE

    def catch_up(self) -> int:
        """Count what the host has kept from the thread in this slice so far; return the time."""
        now, delay = self._clock.read()
        kept, self.delay = delay - self.delay, delay
        self.loaded.clock.add(kept)
        self._kept += kept
        return now

    def credit(self) -> None:
        """Count what the vCPU on the CPU has run of its slice so far: who wakes is compared with that."""
        if self._running:
            now = time.monotonic_ns()
            self.loaded.virtual_ns += now - self._credited
            self._credited = now

    def block(self, vcpu: Vcpu, state: State) -> None:
        """Take the vCPU, which is on the CPU, off it: it is idle or switched off."""
        vcpu.state = state
        if state is State.OFF:
            vcpu.account.power_off(vcpu.clock.read(time.monotonic_ns()))
        self._core.kick()

    def irq_changed(self, vcpu: Vcpu) -> None:
        """The level of a vCPU's IRQ input has changed."""
        if vcpu is self.current:
            self._core.set_irq(vcpu.irq)

    def timer_changed(self) -> None:
        """The vCPU that is on the CPU has set its timer."""
        self._ticker.arm(self._slice_end())

    def deadlines(self) -> list[int]:
        """Return when timers are due, and when who is held is let go."""
        timers = [v.timer.deadline for v in self._vcpus if v.timer.deadline is not None]
        return timers + [v.hold.release_at for v in self._vcpus if v.held]

    def _slice_end(self) -> int | None:
        """Return when the slice is over: a timer, the turn of somebody who waits, or a debt to pay."""
        deadlines = self.deadlines()
        due = self.loaded.hold.next_due()
        if due is not None:
            deadlines.append(due)
        turn = turn_ns(self._vcpus, self.loaded)
        if turn is not None:
            deadlines.append(self._credited + turn)
        return min(deadlines, default=None)
