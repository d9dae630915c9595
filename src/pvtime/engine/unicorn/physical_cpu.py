# SPDX-License-Identifier: GPL-2.0-or-later
"""The one emulated CPU, as its vCPUs share it: which is on it, until when, and what that costs the others."""

from __future__ import annotations

from typing import Final

from pvtime.engine.unicorn.core import Exit
from pvtime.engine.unicorn.preemption_timer import PreemptionTimer
from pvtime.engine.unicorn.scheduler import place_last, slice_ns, timer_slack_ns
from pvtime.engine.unicorn.unicorn_vm import UnicornVm
from pvtime.engine.unicorn.vcpu import SchedState, UnicornVcpu
from pvtime.errors import EngineError
from pvtime.steal.run_delay import ThreadClock

__all__ = ["STOP_NS", "PhysicalCpu"]

STOP_NS: Final = 20_000_000
"""The least time off the CPU, in one piece and not waiting for one, that counts as a stop of the process: by
SIGSTOP, the freezer or a debugger. Page faults, file accesses and the interpreter's lock take less, and hold
up the vCPU that runs alone."""


class PhysicalCpu:
    """Loads vCPUs, runs them and puts them back. Times in ns.

    :param clock: attached to the engine's thread before the first slice.
    """

    def __init__(self, vm: UnicornVm, timer: PreemptionTimer, clock: ThreadClock) -> None:
        self._core = vm.core
        self._gic = vm.gic
        self._vcpus = vm.vcpus
        self._mpidrs = vm.machine.mpidrs
        self._timer = timer
        self._clock = clock
        self.current: UnicornVcpu | None = None
        """The vCPU that is on the CPU."""
        self._running: UnicornVcpu | None = None
        """The vCPU that is charged with the thread's time; None: the thread runs none."""
        self._accounted = (0, 0, 0)
        """The thread's times until which everything is accounted for: see :meth:`ThreadClock.read`."""
        self._others_due: int | None = None
        """The end of the slice, but for the timer of the vCPU that is on the CPU."""

    @property
    def loaded(self) -> UnicornVcpu:
        """The vCPU that is on the CPU.

        :raises EngineError: none is.
        """
        if self.current is None:
            raise EngineError("no vCPU is on the CPU")
        return self.current

    def vcpu_load(self, vcpu: UnicornVcpu) -> None:
        """Put another vCPU on the CPU."""
        self.vcpu_put()
        if vcpu.context is None:
            # Not in the call that switched it on: to borrow the CPU's registers in the midst of a run now and
            # then corrupted the caller, seen as Oopses of CPU 0 in one of some 60 onlinings of another CPU.
            vcpu.context = self._core.contexts.new(self._mpidrs[vcpu.index], *vcpu.entry)
        self._core.contexts.load(vcpu.context)
        self.current = vcpu
        self._gic.current = vcpu.index
        self._core.set_irq(vcpu.irq)

    def vcpu_put(self) -> None:
        """Take the current vCPU off the CPU, with its registers; a runnable one waits from here on."""
        last, self.current, self._running = self.current, None, None
        if last is not None and last.state is not SchedState.OFF:
            self._core.contexts.save(last.context)
            if last.state is SchedState.RUNNABLE:
                if not last.run_delay.waiting:  # else it has idled here, and waits since it was woken
                    last.run_delay.wait(last.ran_until)
                last.account.preempt()

    def start(self) -> int:
        """Account from now on; return the time."""
        self._accounted = self._clock.read()
        return self._accounted[0]

    def run_slice(self, vcpu: UnicornVcpu) -> None:
        """Run the vCPU, which is on the CPU, until it idles or its time is over."""
        start = self.update_curr()
        self._running = vcpu
        vcpu.account.vcpu_load(vcpu.run_delay.settle(start))
        vcpu.loads += 1
        self._others_due = self._slice_end()
        self._arm()
        left = self._core.run()
        self._timer.disarm()
        end = self.update_curr()
        vcpu.spins = left is Exit.STOPPED and self._core.spins()
        if vcpu.spins:
            place_last(vcpu, self._vcpus)
        if left is Exit.IDLE and vcpu.state is SchedState.RUNNABLE and not vcpu.irq:
            vcpu.state = SchedState.IDLE
        if vcpu.state is not SchedState.RUNNABLE:
            self._running = None
            vcpu.idle_since = end

    def update_curr(self) -> int:
        """Charge the vCPU that runs with the thread's time until now; return the time (Linux' update_curr).

        The thread was on its CPU, or ready for it (run_delay: the host's steal), or neither. The last is
        nobody's doing here: the host held up the vCPU, or stopped the whole process.
        """
        then, delay_before, on_cpu_before = self._accounted
        now, delay, on_cpu = self._accounted = self._clock.read()
        stolen = delay - delay_before
        elapsed = now - then
        blocked = max(0, elapsed - stolen - (on_cpu - on_cpu_before))
        stopped = blocked >= STOP_NS
        vcpu = self._running
        if vcpu is not None:
            ran = elapsed - stolen - blocked
            vcpu.run_delay.add(stolen)
            vcpu.ran_ns += ran
            vcpu.vruntime_ns += ran
            vcpu.ran_until = now
            if not stopped:
                vcpu.host_ns += blocked
        if stopped:
            self._leave_out(blocked, now)
        return now

    def woken(self, due: int | None) -> int:
        """Account for a sleep of the thread since :meth:`update_curr`: all vCPUs were idle, off or held.

        :param due: the time at which the thread was to wake; None: by a call alone.
        :return: the time at which the thread was ready to run. It waited for a CPU since.
        """
        (then, delay_before, _), self._accounted = self._accounted, self._clock.read()
        now, delay, _ = self._accounted
        ready = now - (delay - delay_before)
        # What was due before the sleep was late then; a stop that made it late is accounted for.
        if due is not None and (late := ready - max(due, then)) >= STOP_NS:
            self._leave_out(late, ready)
        return ready

    def notice_suspend(self) -> None:
        """Add a suspension of the host to every vCPU's stops: CLOCK_MONOTONIC has left it out."""
        if suspended := self._clock.newly_suspended():
            for vcpu in self._vcpus:
                vcpu.stop(suspended)

    def _leave_out(self, ns: int, now: int) -> None:
        """Leave the stop of the process that is over out of what the vCPUs did."""
        for vcpu in self._vcpus:
            vcpu.leave_out(ns, now, running=vcpu is self._running)

    def irq_changed(self, vcpu: UnicornVcpu) -> None:
        """Pass the level of a vCPU's IRQ input on to the core, where it is on it."""
        if vcpu is self.current:
            self._core.set_irq(vcpu.irq)

    def rearm(self) -> None:
        """Move the end of the slice: the current vCPU has set its timer."""
        self._arm()

    def _arm(self) -> None:
        """End the slice when the current vCPU's own timer is due, or something else is.

        A tick of Linux sets its timer three times, and all others' deadlines are as they were.
        """
        own, others = self.loaded.timer.deadline, self._others_due
        self._timer.arm(min(own, others) if own is not None and others is not None else own or others)

    def deadlines(self) -> list[int]:
        """Return the times at which timers are due and holds end."""
        timers = [v.timer.deadline for v in self._vcpus if v.timer.deadline is not None]
        return timers + [v.hold.release_at for v in self._vcpus if v.held]

    def _slice_end(self) -> int | None:
        """Return the end of the slice, but for the vCPU's own timer.

        It is the turn of another one that waits, steal that is due, or the timer of another one, which may be
        late.
        """
        now, vcpu = self._accounted[0], self.loaded
        slack = now + timer_slack_ns(self._vcpus)
        ends = [
            max(v.timer.deadline, slack)
            for v in self._vcpus
            if v is not vcpu and v.timer.deadline is not None
        ]
        ends += [v.hold.release_at for v in self._vcpus if v.held]
        due = vcpu.hold.next_due()
        if due is not None:
            ends.append(due)
        turn = slice_ns(self._vcpus, vcpu)
        if turn is not None:
            ends.append(now + turn)
        return min(ends, default=None)
