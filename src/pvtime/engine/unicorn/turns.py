# SPDX-License-Identifier: GPL-2.0-or-later
"""What the embedded engine's thread does, turn after turn, from the boot of the machine to its end."""

from __future__ import annotations

import time

from pvtime.engine.base import Ending, Outcome
from pvtime.engine.unicorn.mail import Mail
from pvtime.engine.unicorn.parts import Parts
from pvtime.engine.unicorn.scheduler import pick, place_woken
from pvtime.engine.unicorn.shared_cpu import SharedCpu
from pvtime.engine.unicorn.vcpu import State
from pvtime.engine.unicorn.wakeups import Wakeups
from pvtime.machine.devicetree import EMULATED_TIMER_PPIS, GicFlavour
from pvtime.steal.run_delay import Schedstat

__all__ = ["Turns"]


class Turns:
    """Decides who runs next, and has it run."""

    def __init__(self, parts: Parts, cpu: SharedCpu, wakeups: Wakeups, mail: Mail, ending: Ending) -> None:
        self._machine = parts.machine
        self._parts = parts
        self._vcpus = parts.vcpus
        self._ticker = parts.ticker
        self._cpu = cpu
        self._wakeups = wakeups
        self._mail = mail
        self._ending = ending
        self._restored = False
        self._restart = False

    def restored(self) -> None:
        """The vCPUs were restored: they go on instead of a boot."""
        self._restored = self._wakeups.paused = True

    def end(self, outcome: Outcome) -> None:
        """End the run."""
        self._ending.end(outcome)
        self._parts.core.kick()

    def restart(self) -> None:
        """Start the machine anew after this instruction."""
        self._restart = True
        self._parts.core.kick()

    def begin(self) -> None:
        """Boot the machine, or have it go on."""
        self._wakeups.begin(time.monotonic_ns())
        if self._restored:
            self._wakeups.resume()
        else:
            self._boot()

    def turn(self, clock: Schedstat) -> None:
        """Once round: what others asked for, what timers are due, then one slice or a sleep."""
        self._mail.read()
        if self._wakeups.paused:
            if self._ending.outcome is None:
                self._mail.wait(None)
            return
        now = time.monotonic_ns()
        self._wakeups.expire_timers(now)
        if self._parts.steal:
            self._steal(now)
        vcpu = pick(self._vcpus, self._cpu.current)
        if self._ending.outcome is not None:
            return
        if vcpu is None:
            self._sleep(clock)
            return
        if vcpu is not self._cpu.current:
            self._cpu.switch(vcpu)
        if self._mail:
            self._ticker.hurry()
        self._cpu.slice(vcpu, clock)
        if self._restart:
            self._restart = False
            self._boot()

    def _boot(self) -> None:
        for vcpu in self._vcpus:
            vcpu.state = State.OFF
            vcpu.timer.reset()
            vcpu.hold.reset()
            vcpu.held = False
        self._parts.gic.reset()
        entry = self._machine.load(GicFlavour.GICV2, EMULATED_TIMER_PPIS)
        self._parts.core.address_space.forget_code()
        now = time.monotonic_ns()
        for vcpu in self._vcpus:
            vcpu.clock.idle()
            vcpu.account.reset(vcpu.clock.read(now))
        self._cpu.leave()  # who is off leaves no registers behind
        self._wakeups.power_on(self._vcpus[0], entry.pc, entry.x0)

    def _steal(self, now: int) -> None:
        """Hold who owes something by the schedule, and let go of who has paid."""
        current = self._cpu.current
        if current is not None and current.state is State.RUNNABLE:
            due = current.hold.next_due()
            if due is not None and due <= now:
                self._cpu.leave()
        for vcpu in self._vcpus:
            held = vcpu.hold.settle_until(now, vcpu.clock.waiting_since)
            if vcpu.held and not held:
                place_woken(vcpu, self._vcpus)  # it is owed no more than one that slept
            vcpu.held = held

    def _sleep(self, clock: Schedstat) -> None:
        """All are idle, off or held: wait for a timer or for mail."""
        deadlines = self._cpu.deadlines()
        timeout = max(0, min(deadlines) - time.monotonic_ns()) / 1e9 if deadlines else None
        before = clock.run_delay()
        self._mail.wait(timeout)
        # Whoever this wakes was ready when the host's timer fired; the thread waited for a CPU since.
        self._wakeups.awake_since = time.monotonic_ns() - (clock.run_delay() - before)
