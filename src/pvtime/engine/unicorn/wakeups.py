# SPDX-License-Identifier: GPL-2.0-or-later
"""When vCPUs become ready to run, and since when they wait then: power, interrupts, timers, pauses."""

from __future__ import annotations

import time

from pvtime.engine.unicorn.parts import Parts
from pvtime.engine.unicorn.scheduler import boost, place_woken
from pvtime.engine.unicorn.shared_cpu import SharedCpu
from pvtime.engine.unicorn.vcpu import State, Vcpu

__all__ = ["Wakeups"]


class Wakeups:
    """Wakes vCPUs. Times in ns."""

    def __init__(self, parts: Parts, cpu: SharedCpu) -> None:
        self._vcpus = parts.vcpus
        self._ticker = parts.ticker
        self._cpu = cpu
        self.awake_since = 0
        """When the engine last woke: what was due before then is waited for from then on."""
        self.paused = False
        self._paused_since = 0
        self._due: int | None = None
        """The deadline of the timer that expires just now."""

    def begin(self, now: int) -> None:
        """The engine's time begins, and with it the schedule of what is stolen on purpose."""
        self._paused_since = now
        for vcpu in self._vcpus:
            vcpu.hold.start(now)

    def power_on(self, vcpu: Vcpu, entry: int, context: int) -> None:
        """Reset a vCPU that is off, and make it runnable."""
        vcpu.context = None
        vcpu.start = entry, context
        vcpu.timer.reset()
        vcpu.state = State.IDLE
        self._wake(vcpu, time.monotonic_ns())

    def expire_timers(self, now: int) -> None:
        """Raise the interrupts of all timers that are due."""
        for vcpu in self._vcpus:
            self._due = vcpu.timer.deadline
            vcpu.timer.expire(now)
        self._due = None

    def irq_changed(self, index: int, level: bool) -> None:
        """A vCPU's IRQ input has a new level."""
        vcpu = self._vcpus[index]
        vcpu.irq = level
        self._cpu.irq_changed(vcpu)
        if not level:
            return
        current = self._cpu.current
        if vcpu.state is State.IDLE:
            self._wake(vcpu, time.monotonic_ns() if self._due is None else max(self._due, self.awake_since))
        elif vcpu.state is State.RUNNABLE and not vcpu.held and vcpu is not current and self._due is None:
            # An interrupt from the vCPU that runs, which may spin until it is answered.
            if current is not None:
                self._cpu.credit()
                boost(vcpu, current, self._vcpus)
            self._ticker.hurry()

    def pause(self) -> None:
        """Take the vCPU that is on the CPU off it, and let nobody wait."""
        if self.paused:
            return
        self.paused = True
        self._cpu.leave()
        now = time.monotonic_ns()
        for vcpu in self._vcpus:
            vcpu.hold.settle_until(now, vcpu.clock.waiting_since)
            vcpu.clock.settle(now)
            vcpu.account.update_stolen_time(vcpu.clock.read(now))
        self._paused_since = now

    def resume(self) -> None:
        """Have everybody who is runnable wait again."""
        if not self.paused:
            return
        self.paused = False
        # Whom a timer wakes that was due meanwhile waits from here on.
        now = self.awake_since = time.monotonic_ns()
        for vcpu in self._vcpus:
            vcpu.hold.resume(now - self._paused_since)
            if vcpu.state is State.RUNNABLE:
                vcpu.clock.wait(now)

    def _wake(self, vcpu: Vcpu, since: int) -> None:
        """Make an idle vCPU runnable; it waits for the engine from ``since`` on."""
        vcpu.state = State.RUNNABLE
        # Its timer may have been due while it still ran: the host ended the slice late.
        since = max(since, vcpu.ran_until)
        vcpu.hold.woke(self._paused_since if self.paused else since)
        if not self.paused:
            vcpu.clock.wait(since)
        self._cpu.credit()
        place_woken(vcpu, self._vcpus)
        current = self._cpu.current
        if current is not None and current.state is State.RUNNABLE:
            # Whoever woke it may wait for its answer: let the scheduler look.
            self._ticker.hurry()
