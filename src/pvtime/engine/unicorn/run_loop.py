# SPDX-License-Identifier: GPL-2.0-or-later
"""The course of a machine on the embedded engine: boot, slice after slice, wake-ups, pauses, the end.

The loop is the one owner of the vCPUs' states: runnable, held, paused, on the CPU. All of it runs on the
engine's thread, but for calls that come before the thread starts or after it has ended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial

from pvtime.engine.base import Ending, Outcome, VcpuSample
from pvtime.engine.call_queue import CallQueue
from pvtime.engine.unicorn.cores import make_core
from pvtime.engine.unicorn.counter import GuestCounter
from pvtime.engine.unicorn.guest_traps import GuestTraps
from pvtime.engine.unicorn.physical_cpu import PhysicalCpu
from pvtime.engine.unicorn.preemption_timer import PreemptionTimer
from pvtime.engine.unicorn.saved import UnicornState, restore_engine, save_engine
from pvtime.engine.unicorn.scheduler import pick_next, place_entity, place_last, yield_to
from pvtime.engine.unicorn.unicorn_vm import CoreMaker, build_vm
from pvtime.engine.unicorn.vcpu import SchedState, UnicornVcpu
from pvtime.errors import EngineError, PvtimeError
from pvtime.inject.schedule import Schedule
from pvtime.machine.boot import BootEntry
from pvtime.machine.devicetree import EMULATED_TIMER_PPIS
from pvtime.machine.gicv3 import GicV3
from pvtime.machine.layout import Region
from pvtime.machine.machine import Machine
from pvtime.machine.memory_map import Access
from pvtime.steal.run_delay import ThreadClock

__all__ = ["RunLoop"]


class RunLoop:
    """Runs a machine's vCPUs in turn. Times in ns.

    :param steal: the steal to inject.
    :param ending: told how the run ends.
    :param clock: the time, and the run_delay of the thread that runs the loop.
    :param core_maker: makes the emulated CPU.
    :raises UsageError: an unknown CPU model or option, or a schedule for vCPUs that the machine lacks.
    :raises EngineError: the library's internals were asked for and cannot be used.
    """

    def __init__(
        self,
        machine: Machine,
        options: Mapping[str, str],
        steal: Schedule,
        ending: Ending,
        clock: ThreadClock | None = None,
        core_maker: CoreMaker = make_core,
    ) -> None:
        self._machine = machine
        self._injects = bool(steal)
        self._pauses_steal = steal.pauses
        self._ending = ending
        self._clock = clock or ThreadClock()
        self.traps = GuestTraps(self, machine.mpidrs, machine.lpt)
        self.vm = build_vm(
            machine,
            options,
            steal,
            irq_changed=self._irq_changed,
            traps=self.traps,
            now=self._clock.now,
            core_maker=core_maker,
        )
        self.timer = PreemptionTimer(self.vm.core.kick, self._clock.now)
        self.calls = CallQueue(self._preempt)
        self.alive = False
        """A thread runs the loop, or is about to."""
        self._thread: int | None = None
        self.cpu = PhysicalCpu(self.vm, self.timer, self._clock)
        self.paused = False
        self._accounts = False
        """The machine's time passes: it has started and has not ended."""
        self._figures_until = 0
        """The time until which all figures are: since when it is paused, where it is."""
        self._awake_since = 0
        """The time at which the loop last woke: what was due before then is waited for from then on."""
        self._expiring: int | None = None
        """The deadline of the timer that expires just now."""
        self._spi_levels: dict[int, bool] = {}
        """The level that each wire was last set to; the interrupt controller may have yet to hear of it."""
        self._restored = False
        self._restart = False

    # The course of the run.

    def run(self) -> None:
        """Run the machine to its end, on the calling thread."""
        for part in (self._run, self._end_accounts, self.calls.run_pending):
            self._attempt(part)
        self.alive = False
        self._ending.conclude()
        self.timer.close()
        self._clock.close()

    def _attempt(self, part: Callable[[], None]) -> None:
        """Run a part of the course. Its exception is the end: nobody is to wait for a thread that is gone."""
        try:
            part()
        except PvtimeError as error:
            self._ending.fail(error)
        except Exception as error:
            current = self.cpu.current
            where = "" if current is None else f" while vCPU {current.index} ran"
            failure = EngineError(f"the engine failed{where}: {type(error).__name__}: {error}")
            failure.__cause__ = error
            self._ending.fail(failure)

    def _run(self) -> None:
        self._thread = threading.get_ident()
        self._clock.attach()
        self.timer.start()
        self.boot_or_resume()
        while self._ending.outcome is None:
            self.iterate()

    def boot_or_resume(self) -> None:
        """Boot the machine, or resume it where it was restored; the schedule's time begins.

        It begins with the guest: on a busy host, to load a kernel takes longer than a schedule's period.
        """
        now = self._figures_until = self.cpu.start()
        self._accounts = True
        for vcpu in self.vm.vcpus:
            vcpu.idle_since = now
        if self._restored:
            self._start_schedule(now)
            self.paused = False
            self._continue(now)
        else:
            entry = self._load_guest()
            now = self._clock.now()
            self._start_schedule(now)
            self._start_vcpu(0, entry.pc, entry.x0, now)

    def _start_schedule(self, now: int) -> None:
        for vcpu in self.vm.vcpus:
            vcpu.hold.start(now)

    def iterate(self) -> None:
        """Make the pending calls, raise the timers that are due, then run one slice or sleep."""
        self.calls.run_pending()
        if self.paused:
            if self._ending.outcome is None:
                self.calls.wait(None)
            return
        now = self._clock.now()
        self._expire_timers(now)
        if self._injects:
            self._settle_holds(now)
        vcpu = pick_next(self.vm.vcpus, self.cpu.current)
        if self._ending.outcome is not None:
            return
        if vcpu is None:
            self._sleep()
            return
        if vcpu is not self.cpu.current:
            self.cpu.vcpu_load(vcpu)
        if self.calls:
            self.timer.preempt_now()
        self.cpu.run_slice(vcpu)
        if self._restart:
            self._boot_again()

    def _boot_again(self) -> None:
        self._restart = False
        entry = self._load_guest()
        self._start_vcpu(0, entry.pc, entry.x0, self._clock.now())

    def end(self, outcome: Outcome) -> None:
        """End the run."""
        self._ending.end(outcome)
        self.vm.core.kick()

    def _load_guest(self) -> BootEntry:
        """Switch all vCPUs off, and load the guest; return where vCPU 0 begins."""
        now = self.cpu.update_curr()
        self.cpu.vcpu_put()
        for vcpu in self.vm.vcpus:
            vcpu.close_segment(now)
            vcpu.idle_since = now
            vcpu.account.reset(vcpu.run_delay.read(now))
            vcpu.state = SchedState.OFF
            vcpu.timer.reset()
            vcpu.hold.reset()
            vcpu.held = False
        self.vm.gic.reset()
        entry = self._machine.load(self.vm.gic.flavour, EMULATED_TIMER_PPIS)
        if (lpt := self._machine.lpt) is not None:
            lpt.reset()
            lpt.begin_run(self.vm.counter.rate.hz)
        self.vm.core.address_space.forget_code()
        return entry

    def _start_vcpu(self, index: int, entry: int, context: int, since: int) -> None:
        """Reset a vCPU that is off, and make it runnable from ``since`` on."""
        vcpu = self.vm.vcpus[index]
        vcpu.context = None
        vcpu.entry = entry, context
        vcpu.timer.reset()
        vcpu.state = SchedState.IDLE
        self._wake(vcpu, since)

    def _settle_holds(self, now: int) -> None:
        """Hold the vCPUs whose steal is due, and release those whose hold is over."""
        current = self.cpu.current
        if current is not None and current.state is SchedState.RUNNABLE:
            due = current.hold.next_due()
            if due is not None and due <= now:
                self.cpu.vcpu_put()
        for vcpu in self.vm.vcpus:
            held = vcpu.hold.settle_until(now, vcpu.run_delay.waiting_since)
            if vcpu.held and not held:
                place_entity(vcpu, self.vm.vcpus)  # it is given no more than one that slept
            vcpu.held = held

    def _sleep(self) -> None:
        """Wait for a timer or a call: every vCPU is idle, off or held."""
        due = min(self.cpu.deadlines(), default=None)
        now = self.cpu.update_curr()
        self.calls.wait(None if due is None else max(0, due - now) / 1e9)
        # A vCPU that this wakes was ready when the host's timer fired; the thread waited for a CPU since.
        self._awake_since = self.cpu.woken(due)

    @property
    def on_thread(self) -> bool:
        """Whether the caller is on the loop's thread."""
        return threading.get_ident() == self._thread

    def _preempt(self) -> bool:
        """Bring the thread to its calls soon; return whether it is alive."""
        self.timer.preempt_now()
        return self.alive

    # Wake-ups.

    def _expire_timers(self, now: int) -> None:
        """Raise the interrupts of all timers that are due."""
        for vcpu in self.vm.vcpus:
            deadline = vcpu.timer.deadline
            if deadline is not None and deadline <= now:  # there may be many, and this is every slice
                self._expiring = deadline
                vcpu.timer.expire(now)
        self._expiring = None

    def _irq_changed(self, index: int, level: bool) -> None:
        """Take the new level of a vCPU's IRQ input."""
        vcpu = self.vm.vcpus[index]
        vcpu.irq = level
        self.cpu.irq_changed(vcpu)
        if not level:
            return
        current = self.cpu.current
        if vcpu.state is SchedState.IDLE:
            due = self._expiring
            self._wake(vcpu, self._clock.now() if due is None else max(due, self._awake_since))
        elif (
            vcpu.state is SchedState.RUNNABLE
            and not vcpu.held
            and vcpu is not current
            and self._expiring is None
        ):
            # An interrupt from the vCPU that runs, which may spin until it is answered.
            if current is not None:
                self.cpu.update_curr()
                yield_to(vcpu, current, self.vm.vcpus)
            self.timer.preempt_now()

    def _wake(self, vcpu: UnicornVcpu, since: int) -> None:
        """Make an idle vCPU runnable; it waits for the engine from ``since`` on."""
        vcpu.state = SchedState.RUNNABLE
        # Its timer may have been due while it still ran: the host ended the slice late.
        since = self._figures_until if self.paused else max(since, vcpu.idle_since)
        vcpu.hold.woke(since)
        if not self.paused:
            vcpu.idle_ns += since - vcpu.idle_since
            vcpu.run_delay.wait(since)
        if self.cpu.current is not None:
            self.cpu.update_curr()
        if self._expiring is not None:
            place_last(vcpu, self.vm.vcpus)
            return
        place_entity(vcpu, self.vm.vcpus)
        current = self.cpu.current
        if current is not None and current.state is SchedState.RUNNABLE:
            # The vCPU that woke it may wait for its answer: let the scheduler look.
            self.timer.preempt_now()

    def set_irq(self, spi: int, level: bool) -> None:
        """Set the level of a shared peripheral interrupt's wire; for any thread."""
        self._spi_levels[spi] = level
        if self.on_thread:
            self._update_spi(spi)
        else:
            self.calls.submit(partial(self._update_spi, spi))

    def _update_spi(self, spi: int) -> None:
        # Not the level of the call that was queued: the guest may have lowered the wire since. A rise
        # after this fall left it up for good: the guest took the interrupt some 3,000 times a second, and did
        # nothing else.
        self.vm.gic.set_spi(spi, self._spi_levels[spi])

    # Requests of other threads, made through the call queue.

    def pause(self) -> None:
        """Take the current vCPU off the CPU, and let none wait."""
        if self.paused:
            return
        self.paused = True
        if self._accounts:
            self._stand_still()

    def resume(self) -> None:
        """Let the runnable vCPUs wait again, and the guest's clocks continue from where they were.

        Where a pause is stolen time, the clocks have gone on: the guest sees that it has passed.
        """
        if not self.paused:
            return
        self.paused = False
        if self._accounts:
            now = self.cpu.start()
            for vcpu in self.vm.vcpus:
                vcpu.hold.resume(now - self._figures_until)
                vcpu.stop(now - self._figures_until)
            self._continue(now)
            if not self._pauses_steal:
                self.vm.stop_counter(self._figures_until, now)

    def reset(self) -> None:
        """Boot the machine again.

        :raises EngineError: it is paused, or has not started.
        """
        if self._ending.outcome is not None:
            return
        if self.paused or not self._accounts:
            raise EngineError("the machine does not run: resume it to reset it")
        self._boot_again()

    def set_steal(self, schedule: Schedule) -> None:
        """Inject steal by another schedule from now on; see :meth:`Engine.set_steal`."""
        now = self._figures_until
        if self._accounts and not self.paused:
            now = self._figures_until = self.cpu.update_curr()
        for vcpu in self.vm.vcpus:
            vcpu.hold.replace(schedule.pending(vcpu.index), now, vcpu.run_delay.waiting_since)
            if vcpu.held:
                place_entity(vcpu, self.vm.vcpus)
                vcpu.held = False
        self._injects = bool(schedule)

    def sample(self) -> list[VcpuSample]:
        """Return every vCPU's figures; those of a paused machine are of the pause's beginning."""
        if self._accounts and not self.paused:
            self._figures_until = self.cpu.update_curr()
            self.cpu.notice_suspend()
        return [vcpu.sample(self._figures_until) for vcpu in self.vm.vcpus]

    def _stand_still(self) -> None:
        """Take the current vCPU off the CPU, and account for what all do until now."""
        now = self._figures_until = self.cpu.update_curr()
        self.cpu.notice_suspend()
        self.cpu.vcpu_put()
        for vcpu in self.vm.vcpus:
            vcpu.hold.settle_until(now, vcpu.run_delay.waiting_since)
            vcpu.close_segment(now)
            vcpu.account.update_stolen_time(vcpu.run_delay.read(now))

    def _continue(self, now: int) -> None:
        """Have the runnable vCPUs wait, and the others be idle or off, from ``now`` on."""
        self._awake_since = now  # a vCPU whose timer was due before waits from here on
        for vcpu in self.vm.vcpus:
            if vcpu.state is SchedState.RUNNABLE:
                vcpu.run_delay.wait(now)
            else:
                vcpu.idle_since = now

    def _end_accounts(self) -> None:
        """Let no vCPU's figures grow any more."""
        try:
            if self._accounts and not self.paused:
                self._stand_still()
        finally:
            self._accounts = False

    def run_delays(self) -> list[int]:
        """Return every vCPU's run_delay."""
        now = self._clock.now()
        return [vcpu.run_delay.read(now) for vcpu in self.vm.vcpus]

    def save(self) -> UnicornState:
        """Return the state of the machine.

        :raises EngineError: it is not paused, or cannot be saved.
        """
        if not self.paused or self._ending.outcome is not None:
            raise EngineError("the machine is not paused: it cannot be saved")
        if restricted := self._machine.map.restricted:
            raise EngineError(f"{restricted[0]} is taken away: give it back to save the guest")
        return save_engine(self.vm)

    def restore(self, state: UnicornState) -> None:
        """Begin with a saved state instead of a boot.

        :raises SavedStateError: it is not the state of such a machine.
        """
        self.calls.run_pending()  # the levels of wires
        restore_engine(self.vm, state)
        self._restored = self.paused = True

    def protect(self, region: Region, access: Access) -> None:
        """Take memory away from the guest, make it read-only, or give it back."""
        memory = self._machine.map.find(region.base, region.size, Access.NONE)
        self.vm.core.address_space.protect(region, memory, access)
        self._machine.map.protect(region, access)

    # For the guest's traps.

    @property
    def loaded(self) -> UnicornVcpu:
        """The vCPU that has trapped."""
        return self.cpu.loaded

    @property
    def counter(self) -> GuestCounter:
        """The guest's counter."""
        return self.vm.counter

    @property
    def gicv3(self) -> GicV3 | None:
        """The machine's GICv3, which has system registers; None: it has a GICv2."""
        return self.vm.gic if isinstance(self.vm.gic, GicV3) else None

    def now(self) -> int:
        """Return the time."""
        return self._clock.now()

    def update_curr(self) -> int:
        """Charge the vCPU that has trapped until now; return the time."""
        return self.cpu.update_curr()

    def timer_changed(self) -> None:
        """Move the end of the slice."""
        self.cpu.rearm()

    # Power control, for PSCI.

    def is_on(self, index: int) -> bool:
        """Whether the vCPU is powered."""
        return self.vm.vcpus[index].state is not SchedState.OFF

    def power_on(self, index: int, entry: int, context: int) -> None:
        """Reset a vCPU that is off, and make it runnable."""
        self._start_vcpu(index, entry, context, self._clock.now())

    def power_off(self, index: int) -> None:
        """Stop the calling vCPU."""
        vcpu = self.vm.vcpus[index]
        vcpu.state = SchedState.OFF
        vcpu.account.power_off(vcpu.run_delay.read(self._clock.now()))
        self.vm.core.kick()

    def suspend(self, index: int) -> None:
        """Stop the calling vCPU until an interrupt is pending for it."""
        vcpu = self.vm.vcpus[index]
        if not vcpu.irq:
            vcpu.state = SchedState.IDLE
            self.vm.core.kick()

    def system_off(self) -> None:
        """Power the machine off."""
        self.end(Outcome.POWER_OFF)

    def system_reset(self) -> None:
        """Boot the machine again after this instruction."""
        self._restart = True
        self.vm.core.kick()
