# SPDX-License-Identifier: GPL-2.0-or-later
"""The embedded engine: one thread that runs the vCPUs of a machine in turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from functools import partial
from typing import Final

from pvtime.abi.pvtime_device import PvTimeGroup, PvTimePaddr
from pvtime.engine.base import Engine, Outcome, VcpuSample
from pvtime.engine.unicorn.choice import make_core
from pvtime.engine.unicorn.core import Exit
from pvtime.engine.unicorn.counter import GuestCounter
from pvtime.engine.unicorn.hypervisor import Hypervisor
from pvtime.engine.unicorn.mail import Mail
from pvtime.engine.unicorn.scheduler import boost, pick, place_woken, turn_ns
from pvtime.engine.unicorn.state import Keeper
from pvtime.engine.unicorn.ticker import Ticker
from pvtime.engine.unicorn.vcpu import State, Vcpu
from pvtime.errors import EngineError, PvtimeError
from pvtime.machine.devicetree import EMULATED_TIMER_PPIS, GicFlavour
from pvtime.machine.dirty import Comparison, DirtyTracker
from pvtime.machine.gicv2 import GicV2
from pvtime.machine.layout import Region
from pvtime.machine.machine import Machine
from pvtime.machine.memory import GuestMemory
from pvtime.machine.memory_map import Access
from pvtime.machine.saved.codec import JsonObject
from pvtime.machine.timer import PHYSICAL_TIMER_PPI, VcpuTimer
from pvtime.steal.account import Account
from pvtime.steal.clock import Schedstat
from pvtime.steal.device import PvTimeDevice
from pvtime.steal.placement import Placement, PlacementName

__all__ = ["DEFAULT_CPU", "UnicornEngine"]

DEFAULT_CPU: Final = "cortex-a72"

_FIRST_PPI = 16


class UnicornEngine(Engine):
    """Runs a machine on the emulated CPU.

    :param options: ``internals`` = ``auto`` (use the library's internals where they are known), ``on``
        (or refuse), ``off`` (the public interface alone).
    :raises UsageError: an unknown CPU model or option.
    :raises EngineError: the internals were asked for and cannot be used.
    """

    name = "unicorn"

    def __init__(self, machine: Machine, options: Mapping[str, str] | None = None) -> None:
        self._machine = machine
        self._gic = GicV2(machine.config.vcpus, on_change=self._irq_changed)
        self.pv_time: PvTimeDevice | None = None
        """The hypervisor's device, where it provides the structures."""
        self.vcpus = [self._make_vcpu(*each) for each in enumerate(self._place_stolen_time())]
        self._current: Vcpu | None = None
        self.counter = GuestCounter()
        self._hypervisor = Hypervisor(self, machine.mpidrs)
        self._core = make_core(
            options or {},
            machine.config.cpu or DEFAULT_CPU,
            machine.map.memories,
            [self._gic.distributor, self._gic.cpu_interface, machine.console, machine.agent],
            self._hypervisor,
        )
        self._keeper = Keeper(self._core, self._gic, self.vcpus, machine.mpidrs, self.counter, self.pv_time)
        self._ticker = Ticker(self._core.kick)
        self._thread = threading.Thread(target=self._run, name="pvtime-engine", daemon=True)
        self._mail = Mail(self._thread, self._ticker.hurry)
        self._outcome: Outcome | None = None
        self._error: PvtimeError | None = None
        self._finished = threading.Event()
        self._restart = False
        self._restored = False
        self._paused = False
        self._awake_since = self._credited = self._slice_ended = self._delay = 0
        self._running = False
        self._paused_since = 0
        self._due: int | None = None
        machine.connect(self.set_irq)

    def _place_stolen_time(self) -> list[Placement | None]:
        """Return every vCPU's structure; create the hypervisor's device where it is to provide them."""
        config = self._machine.config
        if config.placement is not PlacementName.HYPERVISOR:
            return self._machine.place_stolen_time()
        device = self.pv_time = PvTimeDevice(config.vcpus, self._provide)
        base = config.stolen_time.base.to_bytes(8, "little")
        device.set_attr(PvTimeGroup.PADDR, PvTimePaddr.ST, base)
        return [None if index in config.without else device.placement(index) for index in range(config.vcpus)]

    def _provide(self, base: int, size: int) -> GuestMemory:
        return self._machine.map.add(GuestMemory(base, size, self._machine.config.stolen_time.name))

    def _make_vcpu(self, index: int, placement: Placement | None) -> Vcpu:
        timer = VcpuTimer(partial(self._gic.set_ppi, index, _FIRST_PPI + PHYSICAL_TIMER_PPI))
        return Vcpu(index, Account(placement), timer, debts=self._machine.config.steal.debts(index))

    @property
    def internals(self) -> bool:
        """Whether the library's internals are in use."""
        return self._core.internals

    # The interface, for any thread.

    def start(self) -> None:
        """See :meth:`Engine.start`."""
        self._thread.start()

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """See :meth:`Engine.wait`."""
        if not self._finished.wait(timeout):
            return None
        if self._error is not None:
            raise self._error
        return self._outcome

    def stop(self) -> None:
        """See :meth:`Engine.stop`."""
        if self._thread.ident is None:
            return
        self._mail.post(lambda: self.end(Outcome.STOPPED))
        self._thread.join()

    def sample(self) -> list[VcpuSample]:
        """See :meth:`Engine.sample`."""
        return self._mail.call(self._sample)

    def pause(self) -> None:
        """See :meth:`Engine.pause`."""
        self._mail.call(self._pause)

    def resume(self) -> None:
        """See :meth:`Engine.resume`."""
        self._mail.call(self._resume)

    def state(self) -> JsonObject:
        """See :meth:`Engine.state`."""
        return self._mail.call(self._state)

    def restore(self, document: JsonObject) -> None:
        """See :meth:`Engine.restore`."""
        if self._thread.ident is not None:
            raise EngineError("the engine has started: what is saved can only be restored before")
        self._mail.read()  # the levels of wires
        self._keeper.restore(document)
        self._restored = self._paused = True

    def track(self) -> DirtyTracker:
        """See :meth:`Engine.track`."""
        return Comparison(self._machine.memories)

    def limit(self, region: Region, access: Access) -> None:
        """See :meth:`Engine.limit`."""
        self._mail.call(partial(self._limit, region, access))

    def set_irq(self, spi: int, level: bool) -> None:
        """See :meth:`Engine.set_irq`."""
        if threading.get_ident() == self._thread.ident:
            self._gic.set_spi(spi, level)
        else:
            self._mail.post(lambda: self._gic.set_spi(spi, level))

    def _sample(self) -> list[VcpuSample]:
        now = time.monotonic_ns()
        return [vcpu.sample(now) for vcpu in self.vcpus]

    def _pause(self) -> None:
        """Take the vCPU that is on the CPU off it, and let nobody wait."""
        if self._paused:
            return
        self._paused = True
        self._leave_cpu()
        now = time.monotonic_ns()
        for vcpu in self.vcpus:
            vcpu.hold.advance(vcpu.clock.waiting_since, now)
            vcpu.clock.settle(now)
            vcpu.account.update(vcpu.clock.read(now))
        self._paused_since = now

    def _resume(self) -> None:
        if not self._paused:
            return
        self._paused = False
        # Whom a timer wakes that was due meanwhile waits from here on.
        now = self._awake_since = time.monotonic_ns()
        for vcpu in self.vcpus:
            vcpu.hold.resume(now - self._paused_since)
            if vcpu.state is State.RUNNABLE:
                vcpu.clock.wait(now)

    def _state(self) -> JsonObject:
        if not self._paused or self._outcome is not None:
            raise EngineError("the machine is not paused: it cannot be saved")
        if limited := self._machine.map.limited:
            raise EngineError(f"{limited[0]} is taken away: give it back to save the guest")
        return self._keeper.state()

    def _limit(self, region: Region, access: Access) -> None:
        memory = self._machine.map.find(region.base, region.size, Access.NONE)
        self._core.limit(region, memory, access)
        self._machine.map.limit(region, access)

    # What the guest's hypervisor, on the engine's thread, has vCPUs do.

    @property
    def current(self) -> Vcpu:
        """The vCPU that is on the CPU."""
        if self._current is None:
            raise EngineError("no vCPU is on the CPU")
        return self._current

    def power_on(self, vcpu: Vcpu, entry: int, context: int) -> None:
        """Reset a vCPU that is off, and make it runnable."""
        vcpu.context = None
        vcpu.start = entry, context
        vcpu.timer.reset()
        vcpu.state = State.IDLE
        self._wake(vcpu, time.monotonic_ns())

    def block(self, vcpu: Vcpu, state: State) -> None:
        """Take the vCPU, which is on the CPU, off it: it is idle or switched off."""
        vcpu.state = state
        if state is State.OFF:
            vcpu.account.power_off(vcpu.clock.read(time.monotonic_ns()))
        self._core.kick()

    def end(self, outcome: Outcome) -> None:
        """End the run."""
        if self._outcome is None:
            self._outcome = outcome
        self._core.kick()

    def restart(self) -> None:
        """Start the machine anew after this instruction."""
        self._restart = True
        self._core.kick()

    def _irq_changed(self, index: int, level: bool) -> None:
        vcpu = self.vcpus[index]
        vcpu.irq = level
        if vcpu is self._current:
            self._core.set_irq(level)
        if not level:
            return
        if vcpu.state is State.IDLE:
            self._wake(vcpu, time.monotonic_ns() if self._due is None else max(self._due, self._awake_since))
        elif (
            vcpu.state is State.RUNNABLE and not vcpu.held and vcpu is not self._current and self._due is None
        ):
            # An interrupt from the vCPU that runs, which may spin until it is answered.
            if self._current is not None:
                self._credit()
                boost(vcpu, self._current, self.vcpus)
            self._ticker.hurry()

    def _wake(self, vcpu: Vcpu, since: int) -> None:
        """Make an idle vCPU runnable; it waits for the engine from ``since`` on."""
        vcpu.state = State.RUNNABLE
        vcpu.hold.wake(self._paused_since if self._paused else since)
        if not self._paused:
            vcpu.clock.wait(since)
        self._credit()
        place_woken(vcpu, self.vcpus)
        if self._current is not None and self._current.state is State.RUNNABLE:
            # Whoever woke it may wait for its answer: let the scheduler look.
            self._ticker.hurry()

    def _credit(self) -> None:
        """Count what the vCPU on the CPU has run of its slice so far: who wakes is compared with that."""
        if self._running:
            now = time.monotonic_ns()
            self.current.virtual_ns += now - self._credited
            self._credited = now

    def timer_changed(self) -> None:
        """The vCPU that is on the CPU has set its timer."""
        self._ticker.arm(self._slice_end())

    # The thread.

    def _run(self) -> None:
        try:
            self._ticker.start()
            self._schedstat = Schedstat(threading.get_native_id())
            now = self._paused_since = time.monotonic_ns()
            for vcpu in self.vcpus:
                vcpu.hold.start(now)
            if self._restored:
                self._paused_since = now
                self._resume()
            else:
                self._boot()
            while self._outcome is None:
                self._turn()
        except PvtimeError as error:
            self._error = error
        except Exception as error:
            where = "" if self._current is None else f" while vCPU {self._current.index} ran"
            self._error = EngineError(f"the engine failed{where}: {type(error).__name__}: {error}")
            self._error.__cause__ = error
        finally:
            self._outcome = self._outcome if self._error is None else Outcome.FAILED
            self._mail.read()
            self._finished.set()
            self._ticker.close()

    def _boot(self) -> None:
        for vcpu in self.vcpus:
            vcpu.state = State.OFF
            vcpu.timer.reset()
            vcpu.hold.reset()
            vcpu.held = False
        self._gic.reset()
        entry = self._machine.load(GicFlavour.GICV2, EMULATED_TIMER_PPIS)
        self._core.forget_code()
        now = time.monotonic_ns()
        for vcpu in self.vcpus:
            vcpu.clock.idle()
            vcpu.account.reset(vcpu.clock.read(now))
        self._current = None
        self.power_on(self.vcpus[0], entry.pc, entry.x0)

    def _turn(self) -> None:
        """Once round: what others asked for, what timers are due, then one slice or a sleep."""
        self._mail.read()
        if self._paused:
            if self._outcome is None:
                self._mail.wait(None)
            return
        now = time.monotonic_ns()
        self._expire_timers(now)
        if self._machine.config.steal:
            self._steal(now)
        vcpu = pick(self.vcpus, self._current)
        if self._outcome is not None:
            return
        if vcpu is None:
            self._sleep()
            return
        if vcpu is not self._current:
            self._switch(vcpu)
        self._slice(vcpu)
        if self._restart:
            self._restart = False
            self._boot()

    def _expire_timers(self, now: int) -> None:
        for vcpu in self.vcpus:
            self._due = vcpu.timer.deadline
            vcpu.timer.expire(now)
        self._due = None

    def _steal(self, now: int) -> None:
        """Hold who owes something by the schedule, and let go of who has paid."""
        current = self._current
        if current is not None and current.state is State.RUNNABLE:
            due = current.hold.due()
            if due is not None and due <= now:
                self._leave_cpu()
        for vcpu in self.vcpus:
            held = vcpu.hold.advance(vcpu.clock.waiting_since, now)
            if vcpu.held and not held:
                place_woken(vcpu, self.vcpus)  # it is owed no more than one that slept
            vcpu.held = held

    def _switch(self, vcpu: Vcpu) -> None:
        """Put another vCPU on the CPU."""
        self._leave_cpu()
        if vcpu.context is None:
            # Not in the call that switched it on: to borrow the CPU's registers in the midst of a run now and
            # then corrupted the caller, seen as Oopses of CPU 0 in one of some 60 onlinings of another CPU.
            vcpu.context = self._core.new_context(self._machine.mpidrs[vcpu.index], *vcpu.start)
        self._core.load(vcpu.context)
        self._current = vcpu
        self._gic.current = vcpu.index
        self._core.set_irq(vcpu.irq)

    def _leave_cpu(self) -> None:
        """Take whoever is on the CPU off it, with its registers."""
        last, self._current = self._current, None
        if last is not None and last.state is not State.OFF:
            self._core.save(last.context)
            if last.state is State.RUNNABLE:
                last.clock.wait(self._slice_ended)
                last.account.preempt()

    def _slice(self, vcpu: Vcpu) -> None:
        """Load the vCPU and run it until it idles or its time is over."""
        start, thread_delay = self._read_clocks()
        if vcpu.clock.waiting:
            # What the thread itself waited until here is part of the vCPU's wait.
            self._delay = thread_delay
        self._credited = start
        vcpu.clock.run(start)
        vcpu.account.update(vcpu.clock.read(start))
        vcpu.loads += 1
        self._ticker.arm(self._slice_end())
        if self._mail:
            self._ticker.hurry()
        self._running = True
        left = self._core.run()
        self._running = False
        self._ticker.disarm()
        end, thread_delay = self._read_clocks()
        self._slice_ended = end
        stolen, self._delay = thread_delay - self._delay, thread_delay
        vcpu.clock.add(stolen)
        ran = max(0, end - start - stolen)
        vcpu.ran_ns += ran
        vcpu.virtual_ns += max(0, end - self._credited - stolen)
        if left is Exit.IDLE and vcpu.state is State.RUNNABLE and not vcpu.irq:
            vcpu.state = State.IDLE

    def _read_clocks(self) -> tuple[int, int]:
        """Return the time and the thread's run_delay, both in ns and of one moment: the thread did not wait
        between the two readings, or that wait would be in both.
        """
        delay = self._schedstat.run_delay()
        while True:
            now = time.monotonic_ns()
            again = self._schedstat.run_delay()
            if again == delay:
                return now, delay
            delay = again

    def _slice_end(self) -> int | None:
        """Return when the slice is over: a timer, the turn of somebody who waits, or a debt to pay."""
        deadlines = self._deadlines()
        due = self.current.hold.due()
        if due is not None:
            deadlines.append(due)
        turn = turn_ns(self.vcpus, self.current)
        if turn is not None:
            deadlines.append(self._credited + turn)
        return min(deadlines, default=None)

    def _deadlines(self) -> list[int]:
        """Return when timers are due, and when who is held is let go."""
        timers = [v.timer.deadline for v in self.vcpus if v.timer.deadline is not None]
        return timers + [v.hold.until for v in self.vcpus if v.held]

    def _sleep(self) -> None:
        """All are idle, off or held: wait for a timer or for mail."""
        deadlines = self._deadlines()
        timeout = max(0, min(deadlines) - time.monotonic_ns()) / 1e9 if deadlines else None
        before = self._schedstat.run_delay()
        self._mail.wait(timeout)
        # Whoever this wakes was ready when the host's timer fired; the thread waited for a CPU since.
        self._awake_since = time.monotonic_ns() - (self._schedstat.run_delay() - before)
