# SPDX-License-Identifier: GPL-2.0-or-later
"""Times in which nothing executes, and columns that add up to the time passed, on a clock of the test's."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.loop_bench import MS, WFI, Bench, Program, bench, busy
from pvtime.abi.psci import Psci
from pvtime.engine.unicorn.physical_cpu import STOP_NS
from pvtime.engine.unicorn.vcpu import SchedState
from pvtime.machine.timer import NS_PER_TICK


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


def test_a_stop_on_the_way_to_a_sleep_is_left_out_once() -> None:
    # It made the deadline late as well, and was taken for a stop of the sleep once more: what had been stolen
    # from a vCPU that was held ran backwards by 12 ms.
    with bench(busy, steal=("5ms/100ms",)) as it:
        cpu, calls = it.loop.cpu, it.loop.calls
        deadlines, wait, before = cpu.deadlines, calls.wait, 0

        def called(_timeout: float | None) -> None:
            calls.wait, cpu.deadlines = wait, held_up  # type: ignore[method-assign]
            it.clock.move(3 * MS)

        def held_up() -> list[int]:
            nonlocal before
            cpu.deadlines = deadlines  # type: ignore[method-assign]
            before = it.sample()[0].stolen_ns
            it.clock.block(40 * MS)
            return deadlines()

        calls.wait = called  # type: ignore[method-assign, assignment]
        it.iterate(lambda: bool(before))
        (sample,) = it.sample()
        assert (before, sample.stolen_ns, sample.stopped_ns) == (3 * MS, 3 * MS, 40 * MS)


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
