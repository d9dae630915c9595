# SPDX-License-Identifier: GPL-2.0-or-later
"""The timer under a clock that the test sets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvtime.machine.timer import MAX_HZ, MIN_HZ, NS_PER_TICK, CounterRate, TimerControl, VcpuTimer

START_NS = 10**15
ENABLE = TimerControl.of(enable=1)
MASKED = TimerControl.of(enable=1, imask=1)
ticks32 = st.integers(-(1 << 31), (1 << 31) - 1)
u64 = st.integers(0, (1 << 64) - 1)


class Bench:
    """A timer, its line, and the clock."""

    def __init__(self) -> None:
        self.now = START_NS
        self.line = False
        self.changes = 0
        self.timer = VcpuTimer(self._set, self.monotonic_ns)

    def _set(self, level: bool) -> None:
        assert level != self.line, "set to what it is"
        self.line = level
        self.changes += 1

    def monotonic_ns(self) -> int:
        """The host's clock."""
        return self.now

    def pass_to(self, now: int) -> None:
        """Let time pass, as an engine does: it looks at what is due."""
        self.now = now
        self.timer.expire(now)

    @property
    def ticks(self) -> int:
        """The counter."""
        return self.now // NS_PER_TICK


@given(delta=ticks32)
def test_a_timer_value_is_a_compare_value_from_now(delta: int) -> None:
    bench = Bench()
    bench.timer.write_value(delta & 0xFFFF_FFFF)
    assert bench.timer.read_compare() == bench.ticks + delta
    assert bench.timer.read_value() == delta & 0xFFFF_FFFF


@given(compare=u64, later=st.integers(0, 10**12))
def test_the_timer_value_counts_down_in_32_bits(compare: int, later: int) -> None:
    bench = Bench()
    bench.timer.write_compare(compare)
    bench.now += later
    assert bench.timer.read_value() == (compare - bench.ticks) % (1 << 32)
    assert bench.timer.read_compare() == compare


@given(compare=u64, control=u64)
def test_status_is_whether_the_counter_has_come_to_the_compare_value(compare: int, control: int) -> None:
    bench = Bench()
    bench.timer.write_compare(compare)
    bench.timer.write_control(control)
    shown = TimerControl(bench.timer.read_control())
    written = TimerControl(control)
    assert (shown.enable, shown.imask) == (written.enable, written.imask)
    assert shown.istatus == (written.enable and bench.ticks >= compare)
    assert bench.line == bool(shown.istatus and not shown.imask)
    assert shown < 8, "reserved bits are kept"


@given(delta=st.integers(0, (1 << 31) - 1))
def test_the_line_rises_at_the_deadline_and_not_before(delta: int) -> None:
    bench = Bench()
    bench.timer.write_value(delta)
    bench.timer.write_control(ENABLE)
    due = (bench.ticks + delta) * NS_PER_TICK
    if due > bench.now:
        assert bench.timer.deadline == due
        bench.pass_to(due - 1)
        assert not bench.line
        bench.pass_to(due)
    assert bench.line
    assert bench.timer.deadline is None
    bench.pass_to(due + 10**9)
    assert bench.changes == 1


@pytest.mark.parametrize("control", [0, MASKED])
def test_disabling_or_masking_drops_the_line_and_the_deadline(control: int) -> None:
    bench = Bench()
    bench.timer.write_control(ENABLE)  # the compare value is 0: long past
    assert bench.line
    bench.timer.write_control(control)
    assert not bench.line
    assert bench.timer.deadline is None
    bench.timer.write_control(ENABLE)
    assert bench.line


def test_a_later_compare_value_drops_the_line_until_then() -> None:
    bench = Bench()
    bench.timer.write_control(ENABLE)
    bench.timer.write_value(100)
    assert not bench.line
    bench.pass_to(bench.now + 100 * NS_PER_TICK)
    assert bench.line


@pytest.mark.parametrize("compare", [(1 << 64) - 1, 1 << 63, 1 << 60])
def test_the_end_of_time_is_no_deadline(compare: int) -> None:
    bench = Bench()
    bench.timer.write_compare(compare)
    bench.timer.write_control(ENABLE)
    assert bench.timer.deadline is None
    assert not bench.line
    assert bench.timer.read_control() == ENABLE


def test_a_negative_timer_value_is_past() -> None:
    bench = Bench()
    bench.timer.write_control(ENABLE)
    bench.timer.write_value((1 << 32) - 1)
    assert bench.line


def test_a_negative_timer_value_soon_after_the_hosts_start_wraps() -> None:
    bench = Bench()
    bench.now = 0
    bench.timer.write_value((1 << 32) - 1)
    bench.timer.write_control(ENABLE)
    assert bench.timer.read_compare() == (1 << 64) - 1
    assert not bench.line


def test_reset_drops_everything() -> None:
    bench = Bench()
    bench.timer.write_compare(1)
    bench.timer.write_control(ENABLE)
    bench.timer.reset()
    assert (bench.line, bench.timer.deadline) == (False, None)
    assert (bench.timer.read_control(), bench.timer.read_compare()) == (0, 0)


def test_masked_it_shows_its_status_without_an_interrupt() -> None:
    bench = Bench()
    bench.timer.write_control(MASKED)
    assert bench.timer.read_control() == MASKED.with_(istatus=1)
    assert bench.changes == 0


@given(hz=st.integers(MIN_HZ, MAX_HZ), ns=st.integers(0, 1 << 62), ticks=u64)
def test_a_counter_of_any_frequency_is_there_first_when_it_says(hz: int, ns: int, ticks: int) -> None:
    rate = CounterRate(hz)
    assert rate.ticks(ns) == ns * hz // 10**9
    first = rate.ns(ticks)
    assert rate.ticks(first) >= ticks
    assert rate.ticks(first - 1) < ticks


@given(hz=st.integers(MIN_HZ, MAX_HZ), wait=st.integers(1, 10**9))
def test_a_timer_of_any_frequency_fires_at_its_tick(hz: int, wait: int) -> None:
    rate = CounterRate(hz)
    lines: list[bool] = []
    timer = VcpuTimer(lines.append, lambda: START_NS, rate)
    timer.write_value(wait)
    timer.write_control(ENABLE)
    assert timer.deadline == rate.ns(rate.ticks(START_NS) + wait)
    assert timer.read_value() == wait
    timer.expire(timer.deadline - 1)
    assert not lines
    timer.expire(rate.ns(rate.ticks(START_NS) + wait))
    assert lines == [True]
