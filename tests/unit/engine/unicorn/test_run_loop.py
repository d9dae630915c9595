# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine's loop: slices, wake-ups, timers, holds, resets, on a clock that the test moves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from framework.clocks import FakeClock
from framework.loop_bench import MS, WFI, Bench, Program, bench, busy, stopped
from pvtime.abi.psci import Psci
from pvtime.abi.pvtime import PvTime
from pvtime.engine.base import Outcome
from pvtime.engine.unicorn.scheduler import SLICE_NS
from pvtime.engine.unicorn.vcpu import SchedState
from pvtime.errors import EngineError
from pvtime.inject.schedule import Schedule
from pvtime.machine.boot import BootEntry
from pvtime.machine.layout import STOLEN_TIME
from pvtime.machine.machine import Machine


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


def test_ticks_of_idle_vcpus_come_together_while_another_one_runs() -> None:
    # Before Linux is in NOHZ mode, 32 CPUs tick 8,000 times a second: CPU 0 hardly ran any more.
    woken: list[int] = []

    def running(_it: Bench) -> Program:
        while True:
            yield 1000 * MS

    def ticking(it: Bench) -> Program:
        yield it.use_gic
        yield it.set_timer(30 * MS + 20_000 * it.loop.loaded.index)
        yield WFI
        woken.append(it.clock.time)
        yield from busy(it)

    with bench(running, *[ticking] * 7) as it:
        it.iterate(lambda: it.states[1:] == [SchedState.IDLE] * 7)
        before = it.sample()[0].loads
        it.iterate(lambda: len(woken) == 7)
        assert it.sample()[0].loads - before <= 3, "its slice ended for each of the seven"


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


def test_another_schedule_holds_from_now_on_and_is_in_every_figure_exactly_once() -> None:
    with bench(busy) as it:
        it.run_for(7 * MS)
        it.loop.set_steal(Schedule.parse(["50%/10ms"]))
        it.run_for(25 * MS)
        (alone,) = it.sample()  # truth is the structure, and the columns add up
        assert (alone.injected_ns, alone.truth_ns) == (15 * MS, 15 * MS)
        it.loop.set_steal(Schedule.parse(["4ms@10ms"]))
        it.run_for(60 * MS)
        (alone,) = it.sample()
        assert (alone.injected_ns, alone.truth_ns) == (19 * MS, 19 * MS)


def test_no_schedule_ends_a_hold_where_it_is() -> None:
    def stepping(_bench: Bench) -> Program:
        while True:
            yield 1 * MS

    with bench(stepping, busy, steal=("1:20ms@10ms",)) as it:
        it.iterate(lambda: it.loop.vm.vcpus[1].held)
        it.run_for(8 * MS)
        before = it.sample()[1].injected_ns
        assert 0 < before < 20 * MS
        it.loop.set_steal(Schedule())
        assert not it.loop.vm.vcpus[1].held
        it.run_for(100 * MS)
        assert it.sample()[1].injected_ns == before


def test_a_schedule_that_is_set_in_a_pause_begins_behind_it() -> None:
    with bench(busy) as it:
        it.run_for(3 * MS)
        it.paused_at = it.clock.time
        it.loop.pause()
        it.loop.set_steal(Schedule.parse(["4ms@10ms"]))
        it.clock.block(50 * MS)
        it.loop.resume()
        resumed = it.clock.time
        it.iterate(lambda: it.sample()[0].injected_ns > 0)
        assert it.clock.time > resumed + 10 * MS
        it.run_for(50 * MS)
        assert it.sample()[0].injected_ns == 4 * MS


def test_a_reset_from_outside_boots_again_and_a_paused_machine_refuses_it() -> None:
    with bench(busy, busy) as it:
        it.run_for(20 * MS)
        it.loop.reset()
        assert it.states == [SchedState.RUNNABLE, SchedState.OFF]
        assert it.sample()[0].truth_ns == 0
        it.loop.pause()
        with pytest.raises(EngineError, match="resume it to reset it"):
            it.loop.reset()
