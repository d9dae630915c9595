# SPDX-License-Identifier: GPL-2.0-or-later
"""The columns of a vCPU's thread on KVM, on a clock that the test moves."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framework.clocks import FakeClock
from pvtime.engine.kvm.thread_times import STOP_NS, ProcessStops, ThreadTimes

MS = 1_000_000


@dataclass
class Vcpu:
    """A thread of which KVM tells how long it has waited in WFIs."""

    clock: FakeClock = field(default_factory=FakeClock)
    stops: ProcessStops = field(default_factory=lambda: ProcessStops(FakeClock()))
    halted: int = 0
    injected: int = 0
    off: bool = False
    times: ThreadTimes = field(init=False)

    def __post_init__(self) -> None:
        self.times = ThreadTimes(self.stops, lambda: self.halted, self.clock)
        self.times.attach()
        self.account()

    def halt(self, ns: int) -> None:
        self.clock.block(ns)
        self.halted += ns

    def hold(self, ns: int) -> None:
        self.clock.block(ns)
        self.injected += ns

    def account(self) -> None:
        self.times.stop(self.times.account(off=self.off, injected_ns=self.injected), stolen=False)

    def pause(self, ns: int) -> None:
        self.account()
        self.clock.block(ns)
        self.times.stop(self.times.resume(), stolen=False)

    @property
    def columns(self) -> tuple[int, ...]:
        times = self.times
        return times.ran_ns, times.stolen_ns, times.idle_ns, times.stopped_ns, times.host_ns


def test_each_part_of_the_time_has_its_column() -> None:
    vcpu = Vcpu()
    vcpu.clock.move(5 * MS)
    vcpu.clock.steal(7 * MS)
    vcpu.halt(11 * MS)
    vcpu.hold(13 * MS)
    vcpu.clock.block(17 * MS)
    vcpu.account()
    assert vcpu.columns == (5 * MS, 20 * MS, 11 * MS, 0, 17 * MS)
    vcpu.pause(1_000 * MS)
    vcpu.clock.suspend(60_000 * MS)
    vcpu.account()
    assert vcpu.columns == (5 * MS, 20 * MS, 11 * MS, 61_000 * MS, 17 * MS)


def test_a_stop_of_the_process_is_told_from_a_long_access() -> None:
    vcpu = Vcpu()
    vcpu.clock.block(10_000 * MS)
    vcpu.stops.count += 1
    vcpu.account()
    assert vcpu.columns == (0, 0, 0, 10_000 * MS, 0)
    vcpu.clock.block(10_000 * MS)
    vcpu.account()
    assert vcpu.columns == (0, 0, 0, 10_000 * MS, 10_000 * MS)
    vcpu.clock.block(STOP_NS - 1)
    vcpu.stops.count += 1
    vcpu.account()
    assert vcpu.times.stopped_ns == 10_000 * MS, "this one began after a stop that it has not seen"


@pytest.mark.parametrize(
    ("late", "waited", "stops"), [(STOP_NS, 0, 1), (STOP_NS - 1, 0, 0), (3 * STOP_NS, 2 * STOP_NS + 1, 0)]
)
def test_a_thread_that_wakes_late_and_did_not_wait_for_a_cpu_was_stopped(
    late: int, waited: int, stops: int
) -> None:
    clock = FakeClock()
    watch = ProcessStops(clock)

    def wait(timeout: float) -> None:
        clock.block(round(timeout * 1e9))
        clock.steal(waited)
        clock.block(late - waited)

    watch.watch(wait, 0.1)
    assert watch.count == stops


def test_a_vcpu_that_is_off_is_not_stolen_from() -> None:
    vcpu = Vcpu(off=True)
    vcpu.account()
    vcpu.clock.block(50 * MS)
    vcpu.clock.steal(3 * MS)  # woken by a kick
    vcpu.account()
    assert vcpu.columns == (0, 0, 53 * MS, 0, 0)
    vcpu.off = False  # switched on since the last look: the rest of the time it was off
    vcpu.clock.move(1 * MS)
    vcpu.clock.block(20 * MS)
    vcpu.account()
    assert vcpu.columns == (1 * MS, 0, 73 * MS, 0, 0)


def test_without_the_kernels_figure_all_that_is_not_explained_is_idle_time() -> None:
    clock = FakeClock()
    times = ThreadTimes(ProcessStops(clock), None, clock)
    times.attach()
    for _ in range(2):
        clock.block(9 * MS)
        times.account(off=False, injected_ns=0)
    assert (times.idle_ns, times.host_ns) == (18 * MS, 0)


_STEPS = st.tuples(
    st.sampled_from(["move", "steal", "block", "suspend", "halt", "hold", "pause", "account", "off", "stop"]),
    st.integers(0, 300 * MS),
)


@given(st.lists(_STEPS, max_size=40))
def test_the_columns_add_up_whatever_happens(steps: list[tuple[str, int]]) -> None:
    vcpu = Vcpu()
    for step, ns in steps:
        match step:
            case "move" | "steal" | "block":
                getattr(vcpu.clock, step)(ns)
            case "suspend":
                vcpu.clock.suspend(MS + ns)
            case "halt" | "hold" | "pause":
                getattr(vcpu, step)(ns)
            case "off":
                vcpu.off = not vcpu.off
            case "stop":
                vcpu.clock.block(ns)
                vcpu.stops.count += 1
            case "account":
                vcpu.account()
                assert sum(vcpu.columns) == vcpu.clock.time + vcpu.clock.host_suspended
                assert min(vcpu.columns) >= 0
