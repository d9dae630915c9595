# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine's loop, on a clock that the test moves and a core that takes the time it is told."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from types import SimpleNamespace
from typing import Any, TypeAlias, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.clocks import FakeClock
from pvtime.abi.gicv2 import Gicc, Gicd, GicdSgir
from pvtime.abi.psci import Psci
from pvtime.abi.pvtime import PvTime
from pvtime.engine.base import Ending, Outcome, VcpuSample
from pvtime.engine.unicorn.core import Core, Exit
from pvtime.engine.unicorn.physical_cpu import STOP_NS
from pvtime.engine.unicorn.run_loop import RunLoop
from pvtime.engine.unicorn.scheduler import SLICE_NS
from pvtime.engine.unicorn.vcpu import SchedState
from pvtime.inject.schedule import Schedule
from pvtime.machine.boot import BootEntry
from pvtime.machine.image import KernelImage
from pvtime.machine.layout import STOLEN_TIME
from pvtime.machine.machine import Machine, MachineConfig
from pvtime.machine.timer import NS_PER_TICK, PHYSICAL_TIMER_PPI

MS = 1_000_000
WFI = "wfi"

TIMER_INTID = 16 + PHYSICAL_TIMER_PPI
SGI = 5

Action: TypeAlias = int | str | Callable[[], object]
"""A time to run, in ns; WFI; or something that the guest has its hypervisor do."""
Program: TypeAlias = Generator[Action, None, None]


@dataclass
class FakeCore:
    """Runs a program for each vCPU, by the clock."""

    clock: FakeClock
    programs: dict[int, Callable[[], Program]]
    model: str = "fake"
    page_sizes: frozenset[int] = frozenset({4096})
    irq: bool = False
    kicked: bool = False
    loop: RunLoop = field(init=False)

    def __post_init__(self) -> None:
        self.contexts = SimpleNamespace(
            new=self._new,
            load=self._load,
            save=lambda _context: None,
            move_counter=lambda _offset, _contexts: None,
        )
        self.address_space = SimpleNamespace(forget_code=lambda: None)
        self._program: Program | None = None
        self._left: dict[int, int] = {}

    def _new(self, mpidr: int, _entry: int, _x0: int) -> Program:
        self._left.pop(mpidr, None)
        return self.programs[mpidr]()

    def _load(self, program: Program) -> None:
        self._program = program

    def set_irq(self, level: bool) -> None:
        self.irq = level

    def kick(self) -> None:
        self.kicked = True

    def run(self) -> Exit:
        index = self.loop.loaded.index
        assert self._program is not None
        while not self.kicked:
            left = self._left.pop(index, 0)
            if not left:
                action = next(self._program)
                if action == WFI:
                    if not self.irq:
                        return Exit.IDLE
                    continue
                if not isinstance(action, int):
                    assert callable(action)
                    action()
                    continue
                left = action
            end = self.clock.time + left
            deadline = self.loop.timer.deadline
            if deadline is not None and deadline < end:
                self._left[index] = end - max(deadline, self.clock.time)
                self.clock.time = max(deadline, self.clock.time)
                return Exit.STOPPED
            self.clock.time = end
            return Exit.STOPPED  # as a call of another thread has it: a busy vCPU comes back to the loop
        self.kicked = False
        return Exit.STOPPED


@dataclass
class Bench:
    """A loop with its clock and core."""

    loop: RunLoop
    clock: FakeClock
    core: FakeCore
    ending: Ending
    paused_at: int = 0

    def pause(self, ns: int) -> None:
        """Pause the machine for a while."""
        self.paused_at = self.clock.time
        self.loop.pause()
        before = self.sample()
        self.clock.block(ns)
        assert self.sample() == before
        self.loop.resume()

    def iterate(self, until: Callable[[], bool]) -> None:
        """Go round until something has happened."""
        for _ in range(10_000):
            if until():
                return
            self.loop.iterate()
        raise AssertionError(f"it did not happen: {self.sample()}")

    def run_for(self, ns: int) -> None:
        """Go round until that much time has passed."""
        end = self.clock.time + ns
        self.iterate(lambda: self.clock.time >= end)

    def sample(self) -> list[VcpuSample]:
        """Return the figures: truth is the structure, the columns add up to the time passed, to the ns."""
        samples = self.loop.sample()
        assert [sample.structure_ns for sample in samples] == [sample.truth_ns for sample in samples]
        until = self.paused_at if self.loop.paused else self.clock.time
        passed = until - self.clock.origin + self.clock.host_suspended
        assert [sample.elapsed_ns for sample in samples] == [passed for _ in samples], samples
        return samples

    def call(self, function: int, *arguments: int) -> Callable[[], object]:
        """Return what makes a hypervisor call."""
        registers = [function, *arguments, 0, 0, 0][:4]
        return lambda: self.loop.traps.hypercall(registers)

    def set_timer(self, ns: int) -> Callable[[], object]:
        """Return what has the calling vCPU's timer expire so long from then on, a multiple of a tick."""

        def write() -> None:
            timer = self.loop.loaded.timer
            self.use_gic()
            timer.write_control(0)
            timer.write_compare((self.clock.time + ns) // NS_PER_TICK)
            timer.write_control(1)
            self.loop.timer_changed()

        return write

    def use_gic(self) -> None:
        """Enable the private interrupts of the calling vCPU."""
        gic = self.loop.vm.gic
        gic.distributor.write(Gicd.CTLR, 4, 1)
        gic.distributor.write(Gicd.ISENABLER, 4, 1 << TIMER_INTID | 1 << SGI)
        gic.cpu_interface.write(Gicc.CTLR, 4, 1)
        gic.cpu_interface.write(Gicc.PMR, 4, 0xFF)

    def acknowledge(self) -> None:
        """Take the calling vCPU's interrupt and complete it."""
        gic = self.loop.vm.gic
        gic.cpu_interface.write(Gicc.EOIR, 4, gic.cpu_interface.read(Gicc.IAR, 4))

    def interrupt(self, index: int) -> Callable[[], object]:
        """Return what sends another vCPU an interrupt."""
        sgi = GicdSgir.of(cpus=1 << index, intid=SGI)
        return lambda: self.loop.vm.gic.distributor.write(Gicd.SGIR, 4, sgi)

    @property
    def states(self) -> list[SchedState]:
        """What each vCPU does."""
        return [vcpu.state for vcpu in self.loop.vm.vcpus]


@contextmanager
def bench(
    *programs: Callable[[Bench], Program],
    steal: tuple[str, ...] = (),
    pauses: bool = False,
    on: int | None = None,
) -> Iterator[Bench]:
    """Make a loop that has booted; vCPU 0 has switched the first ``on`` vCPUs on (None: all)."""
    machine = Machine(
        MachineConfig(len(programs), 64 << 20, KernelImage(bytes(64), 0, 4096, None)),
        lambda _: None,
        lambda _: None,
    )
    clock, ending = FakeClock(10**12 * NS_PER_TICK), Ending()
    core = FakeCore(clock, {})
    schedule = Schedule.parse(steal, pauses=pauses)
    loop = RunLoop(machine, {}, schedule, ending, clock, core_maker=lambda *_: cast("Core", core))
    core.loop = loop
    loop.timer.preempt_now = core.kick  # type: ignore[method-assign]
    made = Bench(loop, clock, core, ending)

    def first() -> Program:
        for index in range(1, len(programs) if on is None else on):
            yield made.call(Psci.CPU_ON_64, index, 0x4000_0000, 0)
        yield from programs[0](made)

    core.programs[0] = first
    for index, program in enumerate(programs[1:], 1):
        core.programs[index] = lambda program=program: program(made)  # type: ignore[misc]

    def wait(timeout: float | None) -> None:
        assert timeout is not None, "every vCPU sleeps for ever"
        clock.block(round(timeout * 1e9))

    loop.calls.wait = wait  # type: ignore[method-assign]
    try:
        loop.boot_or_resume()
        yield made
    finally:
        machine.close()


def stopped(sample: VcpuSample, ns: int) -> VcpuSample:
    """Return the figures after a time in which nothing executed."""
    return replace(sample, stopped_ns=sample.stopped_ns + ns)


def busy(_bench: Bench) -> Program:
    """Run for ever."""
    while True:
        yield 100 * MS


def test_two_busy_vcpus_share_the_cpu_and_each_is_stolen_from_while_the_other_runs() -> None:
    with bench(busy, busy) as it:
        it.run_for(100 * MS)
        first, second = it.sample()
        elapsed = it.clock.time - it.clock.origin
        assert first.ran_ns + second.ran_ns == elapsed
        assert (first.truth_ns, second.truth_ns) == (second.ran_ns, first.ran_ns)
        assert abs(first.ran_ns - second.ran_ns) <= SLICE_NS


def test_time_that_the_host_takes_is_stolen_from_the_vcpu_that_runs_and_from_those_that_wait() -> None:
    def robbed(it: Bench) -> Program:
        yield 1 * MS
        yield lambda: it.clock.steal(7 * MS)
        yield from busy(it)

    with bench(robbed) as it:
        it.run_for(20 * MS)
        (alone,) = it.sample()
        assert alone.truth_ns == 7 * MS
        assert alone.ran_ns == it.clock.time - it.clock.origin - 7 * MS
    with bench(robbed, busy) as it:
        it.run_for(50 * MS)
        first, second = it.sample()
        elapsed = it.clock.time - it.clock.origin
        assert first.ran_ns + second.ran_ns == elapsed - 7 * MS
        assert first.truth_ns == second.ran_ns + 7 * MS
        assert second.truth_ns == first.ran_ns + 7 * MS


def test_an_idle_vcpu_is_not_stolen_from_and_its_timer_wakes_it_on_time() -> None:
    def dozing(it: Bench) -> Program:
        while True:
            yield it.set_timer(10 * MS)
            yield WFI
            yield it.set_timer(100 * MS)  # lowers the line
            yield 1 * MS

    with bench(dozing) as it:
        it.run_for(55 * MS)
        (alone,) = it.sample()
        assert (alone.truth_ns, alone.ran_ns) == (0, 5 * MS)


def test_a_vcpu_whose_timer_is_due_while_another_runs_waits_from_the_deadline_on() -> None:
    resumed: list[int] = []

    def dozing(it: Bench) -> Program:
        yield it.set_timer(10 * MS)
        yield WFI
        yield lambda: resumed.append(it.clock.time)
        yield from busy(it)

    with bench(busy, dozing) as it:
        it.iterate(lambda: it.sample()[1].loads > 0 and it.states[1] is SchedState.IDLE)
        before = it.sample()[1].truth_ns
        due = it.loop.vm.vcpus[1].timer.deadline
        assert due is not None
        # The slice of vCPU 0 ends late: the timer's vCPU was ready all the while.
        it.clock.time = due + 3 * MS
        it.iterate(lambda: bool(resumed))
        assert it.sample()[1].truth_ns - before == resumed[0] - due >= 3 * MS


def test_a_wake_up_that_the_host_delays_is_stolen_and_the_sleep_before_it_is_not() -> None:
    def dozing(it: Bench) -> Program:
        yield it.set_timer(10 * MS)
        yield WFI
        yield from busy(it)

    with bench(dozing) as it:
        it.iterate(lambda: it.states[0] is SchedState.IDLE)

        def late(timeout: float | None) -> None:
            assert timeout is not None
            it.clock.time += round(timeout * 1e9)
            it.clock.steal(2 * MS)

        it.loop.calls.wait = late  # type: ignore[method-assign]
        it.iterate(lambda: it.sample()[0].loads > 1)
        assert it.sample()[0].truth_ns == 2 * MS


def test_a_vcpu_whose_timer_is_due_while_it_runs_itself_has_not_waited_then() -> None:
    def dozing(it: Bench) -> Program:
        yield it.set_timer(1 * MS)
        yield lambda: it.clock.move(5 * MS)  # the host is late to end the slice
        yield WFI
        yield 1 * MS

    with bench(dozing) as it:
        it.iterate(lambda: it.states[0] is SchedState.IDLE)
        it.iterate(lambda: it.sample()[0].loads > 1)
        (alone,) = it.sample()
        assert (alone.ran_ns, alone.truth_ns) == (it.clock.time - it.clock.origin, 0)


def test_a_vcpu_that_another_interrupts_wakes_then_and_runs_at_once() -> None:
    moments: list[int] = []

    def sends(it: Bench) -> Program:
        yield 4 * MS
        yield it.interrupt(1)
        yield from busy(it)

    def sleeps(it: Bench) -> Program:
        yield it.use_gic
        yield WFI
        yield lambda: moments.append(it.clock.time)
        yield it.acknowledge
        yield 1 * MS
        yield WFI

    with bench(sends, sleeps) as it:
        it.iterate(lambda: it.sample()[1].loads > 0 and it.states[1] is SchedState.IDLE)
        asleep = it.sample()[1]
        it.iterate(lambda: len(moments) == 1 and it.states[1] is SchedState.IDLE)
        first, second = it.sample()
        assert moments == [it.clock.origin + 4 * MS]
        assert (second.ran_ns, second.truth_ns) == (1 * MS, asleep.truth_ns)
        assert (first.ran_ns, first.truth_ns) == (4 * MS, 1 * MS)
        assert it.clock.time == it.clock.origin + 5 * MS


def test_a_vcpu_that_waits_has_its_turn_when_another_interrupts_it() -> None:
    sent: list[int] = []

    def sends(it: Bench) -> Program:
        yield SLICE_NS // 2  # the other has its first turn
        yield 100_000
        yield lambda: sent.append(it.clock.time)
        yield it.interrupt(1)
        yield from busy(it)

    def spins(it: Bench) -> Program:
        yield it.use_gic
        yield from busy(it)

    with bench(sends, spins) as it:
        it.iterate(lambda: bool(sent))
        assert it.loop.cpu.current is not None
        before = it.sample()
        it.loop.iterate()
        after = it.sample()
        assert it.loop.cpu.current.index == 1, "the sender has kept the CPU"
        # Nothing passed between the interrupt and its load.
        assert after[1].ran_ns > before[1].ran_ns
        assert after[1].truth_ns == before[1].truth_ns
        assert after[0].truth_ns - before[0].truth_ns == after[1].ran_ns - before[1].ran_ns


def test_a_vcpu_that_is_switched_on_waits_from_the_call_on_and_gets_no_time_of_before() -> None:
    def switches(it: Bench) -> Program:
        yield lambda: it.clock.move(40 * MS)  # in one slice, which is not over at the call
        yield it.call(Psci.CPU_ON_64, 1, 0x4000_0000, 0)
        yield from busy(it)

    with bench(switches, busy, on=1) as it:
        it.run_for(80 * MS)
        first, second = it.sample()
        switched_on = it.clock.origin + 40 * MS
        assert second.ran_ns + second.truth_ns == it.clock.time - switched_on
        assert first.ran_ns + first.truth_ns == it.clock.time - it.clock.origin
        assert first.truth_ns == second.ran_ns
        assert abs(first.ran_ns - 40 * MS - second.ran_ns) <= 2 * SLICE_NS


def test_a_wait_that_a_pause_interrupts_goes_on_where_it_was() -> None:
    with bench(busy, steal=("4ms@10ms",)) as it:

        def interrupted(timeout: float | None) -> None:
            assert timeout is not None
            it.clock.block(1 * MS)

        it.loop.calls.wait = interrupted  # type: ignore[method-assign]
        it.iterate(lambda: it.loop.vm.vcpus[0].held)
        (before,) = it.sample()
        assert (before.injected_ns, before.truth_ns) == (1 * MS, 1 * MS)
        it.pause(1_000 * MS)
        assert it.sample() == [stopped(before, 1_000 * MS)]
        it.iterate(lambda: it.sample()[0].loads > 1)
        (alone,) = it.sample()
        assert (alone.injected_ns, alone.truth_ns) == (4 * MS, 4 * MS)
        assert alone.ran_ns == it.clock.time - it.clock.origin - 1_004 * MS


def test_a_pause_is_nobodys_time() -> None:
    with bench(busy, busy) as it:
        it.run_for(30 * MS)
        before = it.sample()
        it.pause(5_000 * MS)
        assert it.sample() == [stopped(sample, 5_000 * MS) for sample in before]
        resumed = it.clock.time
        it.run_for(30 * MS)
        after = it.sample()
        ran = sum(now.ran_ns - then.ran_ns for now, then in zip(after, before, strict=True))
        assert ran == it.clock.time - resumed


def test_pv_time_st_starts_the_count_again_and_the_hosts_steal_before_it_is_not_in_it() -> None:
    def asking(it: Bench) -> Program:
        yield 1 * MS
        yield lambda: it.clock.steal(4 * MS)
        yield it.call(PvTime.ST)
        yield lambda: it.clock.steal(2 * MS)
        yield from busy(it)

    with bench(asking) as it:
        it.run_for(20 * MS)
        (alone,) = it.sample()
        assert (alone.truth_ns, alone.enabled) == (2 * MS, True)


def test_a_vcpu_that_is_off_is_not_stolen_from() -> None:
    def ends(it: Bench) -> Program:
        yield 1 * MS
        yield it.call(Psci.CPU_OFF)

    with bench(busy, ends) as it:
        it.iterate(lambda: it.sample()[1].loads > 0 and it.states[1] is SchedState.OFF)
        before = it.sample()[1]
        it.run_for(50 * MS)
        after = it.sample()[1]
        assert replace(after, idle_ns=before.idle_ns) == before
        assert after.ran_ns == 1 * MS


def test_a_vcpu_that_has_not_been_switched_on_has_no_figures() -> None:
    with bench(busy, busy, on=1) as it:
        it.run_for(20 * MS)
        assert (it.sample()[1].ran_ns, it.sample()[1].truth_ns, it.states[1]) == (0, 0, SchedState.OFF)


def test_a_reset_boots_the_machine_again_and_truth_starts_from_zero() -> None:
    resets: list[int] = []

    def resetting(it: Bench) -> Program:
        yield lambda: it.clock.steal(3 * MS)
        yield 1 * MS
        if not resets:
            resets.append(it.sample()[0].ran_ns)
            yield it.call(Psci.SYSTEM_RESET)
        yield from busy(it)

    with bench(resetting) as it:
        it.run_for(20 * MS)
        (alone,) = it.sample()
        assert len(resets) == 1
        assert alone.truth_ns == 3 * MS, "the host's steal of the second life alone"
        assert not alone.enabled


@pytest.mark.parametrize(("steal", "injected"), [("4ms@10ms", 4), ("2ms/10ms@0-50ms", 10), ("30%@0-1", 300)])
def test_a_schedule_is_injected_to_the_nanosecond(steal: str, injected: int) -> None:
    with bench(busy, steal=(steal,)) as it:
        it.run_for(1_500 * MS)
        (alone,) = it.sample()
        assert alone.truth_ns == alone.injected_ns == injected * MS
        assert alone.ran_ns == it.clock.time - it.clock.origin - injected * MS


def test_a_schedule_begins_with_the_guest_however_long_it_takes_to_load(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # On a busy host the first period was over before vCPU 0 was switched on, and expired.
    load, clocks = Machine.load, list[FakeClock]()

    def slow_load(machine: Machine, *arguments: Any) -> BootEntry:
        clocks[0].time += 250 * MS
        return load(machine, *arguments)

    make = FakeClock.__init__

    def remember(clock: FakeClock, origin: int) -> None:
        make(clock, origin)
        clocks.append(clock)

    monkeypatch.setattr(FakeClock, "__init__", remember)
    monkeypatch.setattr(Machine, "load", slow_load)
    with bench(busy, steal=("30%@0-0.5",)) as it:
        it.run_for(1_000 * MS)
        assert it.sample()[0].injected_ns == 150 * MS


def test_a_vcpu_held_on_purpose_beside_a_busy_one_is_charged_once() -> None:
    with bench(busy, busy, steal=("1:20ms@10ms",)) as it:
        it.run_for(100 * MS)
        first, second = it.sample()
        assert (first.injected_ns, second.injected_ns) == (0, 20 * MS)
        elapsed = it.clock.time - it.clock.origin
        assert second.ran_ns + second.truth_ns == first.ran_ns + first.truth_ns == elapsed


def test_the_guests_power_off_ends_the_run() -> None:
    def ends(it: Bench) -> Program:
        yield 1 * MS
        yield it.call(Psci.SYSTEM_OFF)

    with bench(ends) as it:
        it.iterate(lambda: it.ending.outcome is not None)
        assert it.ending.outcome is Outcome.POWER_OFF
        assert it.loop.vm.machine.stolen_time.base == STOLEN_TIME.base


# Times in which nothing executes


def test_a_stop_of_the_process_is_neither_run_nor_stolen_from_anybody() -> None:
    """SIGSTOP for 10 s was run time of the vCPU that it hit, and stolen from the one that waited."""

    def hit(it: Bench) -> Program:
        yield 5 * MS
        yield lambda: it.clock.block(10_000 * MS)
        yield from busy(it)

    def off(it: Bench) -> Program:
        yield it.call(Psci.CPU_OFF)

    def asleep(_it: Bench) -> Program:
        yield WFI

    with bench(hit, busy, asleep, off) as it:
        it.run_for(10_100 * MS)
        samples = it.sample()
        assert [sample.stopped_ns for sample in samples] == [10_000 * MS] * 4
        assert all(sample.stolen_ns + sample.ran_ns + sample.idle_ns <= 110 * MS for sample in samples)


def test_a_stop_while_all_are_idle_is_what_came_after_the_first_deadline() -> None:
    def dozing(it: Bench) -> Program:
        yield it.set_timer(10 * MS)
        yield WFI
        yield from busy(it)

    def asleep(_it: Bench) -> Program:
        yield WFI

    with bench(dozing, asleep) as it:
        wait = it.loop.calls.wait

        def stop(timeout: float | None) -> None:
            wait(timeout)
            it.clock.block(3_000 * MS)
            it.loop.calls.wait = wait  # type: ignore[method-assign]

        it.loop.calls.wait = stop  # type: ignore[method-assign]
        it.run_for(3_100 * MS)
        first, second = it.sample()
        assert (first.idle_ns, first.stolen_ns, first.stopped_ns) == (10 * MS, 0, 3_000 * MS)
        assert (second.stolen_ns, second.stopped_ns) == (0, 3_000 * MS)


def test_a_short_block_holds_up_the_vcpu_that_runs_and_others_wait_for_it() -> None:
    def faulting(it: Bench) -> Program:
        yield 1 * MS
        yield lambda: it.clock.block(STOP_NS - 1)
        yield from busy(it)

    with bench(faulting, busy) as it:
        it.run_for(100 * MS)
        first, second = it.sample()
        assert (first.host_ns, first.stopped_ns) == (STOP_NS - 1, 0)
        assert (second.host_ns, second.stopped_ns) == (0, 0)
        assert second.stolen_ns == first.ran_ns + first.host_ns


def test_a_suspension_of_the_host_is_stopped_time() -> None:
    with bench(busy, busy) as it:
        it.run_for(10 * MS)
        it.clock.host_suspended += 60_000 * MS
        it.run_for(10 * MS)
        assert [sample.stopped_ns for sample in it.sample()] == [60_000 * MS] * 2
        it.loop.pause()
        it.clock.suspend(30_000 * MS)
        it.loop.resume()
        assert [sample.stopped_ns for sample in it.sample()] == [90_000 * MS] * 2


@pytest.mark.parametrize("pauses", [False, True])
def test_pauses_and_stops_are_stolen_where_that_is_wanted(pauses: bool) -> None:
    def hit(it: Bench) -> Program:
        yield 5 * MS
        yield lambda: it.clock.block(100 * MS)
        yield from busy(it)

    def off(it: Bench) -> Program:
        yield it.call(Psci.CPU_OFF)

    with bench(hit, off, pauses=pauses) as it:
        it.run_for(200 * MS)
        counter = it.loop.vm.counter
        before = counter.read()
        it.pause(1_000 * MS)
        assert counter.read() - before == (1_000 * MS // NS_PER_TICK if pauses else 0)
        it.run_for(10 * MS)
        first, second = it.sample()
        assert (first.injected_ns, first.stopped_ns) == ((1_100 * MS, 0) if pauses else (0, 1_100 * MS))
        assert first.stolen_ns >= first.injected_ns
        assert second.stopped_ns == 1_100 * MS, "nothing is stolen from a vCPU that is off"


def test_a_timer_that_a_pause_interrupts_expires_as_much_later() -> None:
    woken: list[int] = []

    def dozing(it: Bench) -> Program:
        yield it.set_timer(10 * MS)
        yield WFI
        woken.append(it.clock.time)
        yield from busy(it)

    with bench(dozing) as it:
        it.iterate(lambda: it.states[0] is SchedState.IDLE)
        it.pause(5_000 * MS)
        it.iterate(lambda: bool(woken))
        assert woken == [it.clock.origin + 5_010 * MS]


_TIMES = st.integers(1, 50 * MS)
_STEPS = st.one_of(
    st.tuples(st.sampled_from(["run", "block", "steal", "doze", "suspend"]), _TIMES),
    st.tuples(st.sampled_from(["wake", "off", "on"]), st.integers(0, 2)),
)


@given(
    lives=st.lists(st.lists(_STEPS, max_size=12), min_size=3, max_size=3),
    pauses=st.lists(_TIMES, max_size=4),
    steal=st.sampled_from([(), ("30%",), ("1:4ms/10ms@5ms",)]),
)
@settings(deadline=None, max_examples=50)
def test_the_columns_add_up_whatever_happens(
    lives: list[list[tuple[str, int]]], pauses: list[int], steal: tuple[str, ...]
) -> None:
    """:meth:`Bench.sample` compares them with the time passed, at each look."""

    def live(steps: list[tuple[str, int]], it: Bench) -> Program:
        for step, value in steps:
            match step:
                case "run":
                    yield value
                case "block":
                    yield partial(it.clock.block, value)
                case "steal":
                    yield partial(it.clock.steal, value)
                case "suspend":
                    yield partial(it.clock.suspend, value * MS)
                case "doze":
                    yield it.set_timer(value)
                    yield WFI
                    yield it.set_timer(10**12)
                case "wake":
                    yield it.use_gic
                    yield it.interrupt(value)
                case "off" if it.loop.loaded.index:
                    yield it.call(Psci.CPU_OFF)
                case "on":
                    yield it.call(Psci.CPU_ON_64, value, 0x4000_0000, 0)
        yield from busy(it)

    with bench(*(partial(live, steps) for steps in lives), steal=steal) as it:
        for pause in pauses:
            it.run_for(7 * MS)
            it.pause(pause)
            it.sample()
        for _ in range(8):
            it.run_for(40 * MS)
            it.sample()
