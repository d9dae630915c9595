# SPDX-License-Identifier: GPL-2.0-or-later
"""The one emulated CPU, as its vCPUs share it: which is on it, until when, and what that costs the others."""

from __future__ import annotations

from pvtime.engine.unicorn.core import Exit
from pvtime.engine.unicorn.preemption_timer import PreemptionTimer
from pvtime.engine.unicorn.scheduler import slice_ns
from pvtime.engine.unicorn.unicorn_vm import UnicornVm
from pvtime.engine.unicorn.vcpu import SchedState, UnicornVcpu
from pvtime.errors import EngineError
from pvtime.steal.run_delay import ThreadClock

__all__ = ["PhysicalCpu"]


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
        self._in_slice = False
        self._thread_delay = 0
        """The thread's run_delay that is accounted for."""
        self._host_steal = 0
        """The part of the slice in which the host kept the thread from running."""
        self._charged_until = 0
        """The time until which the slice is in the vCPU's vruntime."""

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
        last, self.current = self.current, None
        if last is not None and last.state is not SchedState.OFF:
            self._core.contexts.save(last.context)
            if last.state is SchedState.RUNNABLE:
                if not last.run_delay.waiting:  # else it has idled here, and waits since it was woken
                    last.run_delay.wait(last.ran_until)
                last.account.preempt()

    def run_slice(self, vcpu: UnicornVcpu) -> None:
        """Run the vCPU, which is on the CPU, until it idles or its time is over."""
        start, thread_delay = self._clock.read()
        if vcpu.run_delay.waiting:
            # The thread's own wait until here is part of the vCPU's wait.
            self._thread_delay = thread_delay
        self._charged_until, self._host_steal = start, 0
        vcpu.account.vcpu_load(vcpu.run_delay.settle(start))
        vcpu.loads += 1
        self._timer.arm(self._slice_end())
        self._in_slice = True
        left = self._core.run()
        self._in_slice = False
        self._timer.disarm()
        vcpu.ran_until = end = self.account_host_steal()
        vcpu.ran_ns += max(0, end - start - self._host_steal)
        vcpu.vruntime_ns += max(0, end - self._charged_until - self._host_steal)
        if left is Exit.IDLE and vcpu.state is SchedState.RUNNABLE and not vcpu.irq:
            vcpu.state = SchedState.IDLE

    def account_host_steal(self) -> int:
        """Charge the vCPU with the time for which the host kept the thread off its CPU; return the time."""
        now, thread_delay = self._clock.read()
        stolen, self._thread_delay = thread_delay - self._thread_delay, thread_delay
        self.loaded.run_delay.add(stolen)
        self._host_steal += stolen
        return now

    def update_curr(self) -> None:
        """Bring the current vCPU's vruntime up to date: that of a vCPU that wakes is compared with it."""
        if self._in_slice:
            now = self._clock.now()
            self.loaded.vruntime_ns += now - self._charged_until
            self._charged_until = now

    def irq_changed(self, vcpu: UnicornVcpu) -> None:
        """Pass the level of a vCPU's IRQ input on to the core, where it is on it."""
        if vcpu is self.current:
            self._core.set_irq(vcpu.irq)

    def rearm(self) -> None:
        """Move the end of the slice: the current vCPU has set its timer."""
        self._timer.arm(self._slice_end())

    def deadlines(self) -> list[int]:
        """Return the times at which timers are due and holds end."""
        timers = [v.timer.deadline for v in self._vcpus if v.timer.deadline is not None]
        return timers + [v.hold.release_at for v in self._vcpus if v.held]

    def _slice_end(self) -> int | None:
        """Return the end of the slice: a timer, the turn of a vCPU that waits, or steal that is due."""
        deadlines = self.deadlines()
        due = self.loaded.hold.next_due()
        if due is not None:
            deadlines.append(due)
        turn = slice_ns(self._vcpus, self.loaded)
        if turn is not None:
            deadlines.append(self._charged_until + turn)
        return min(deadlines, default=None)
