# SPDX-License-Identifier: GPL-2.0-or-later
"""The course of a measurement: the order of blocks, what ends it, and what it counts."""

from __future__ import annotations

import errno
import fcntl
import gc
import time
from dataclasses import dataclass, field

import pytest

from pvtime.cost.round_trips import KVM_RUN, Pace, measure

LONG = 3600.0


@dataclass
class FakeVm:
    """A VM whose round trips take 100 ns, and 30 more with stolen time."""

    exit_name = "FAKE"
    enabled: bool = False
    blocks: list[bool] = field(default_factory=list)
    runs: int = 0
    count: int = 0
    now: int = 0
    interrupts: int = 0
    collecting: bool = False

    def enable(self) -> None:
        self.enabled = True

    def select(self, counted: bool) -> int:
        self.blocks.append(counted)
        self.collecting |= gc.isenabled()
        return 7 if counted else 6

    def check_exit(self, counted: bool) -> None:
        assert counted is self.blocks[-1]

    def updates(self) -> int:
        return self.count

    def stolen_ns(self) -> int:
        return 0

    def ioctl(self, fd: int, request: int) -> int:
        assert request == KVM_RUN
        if self.interrupts:
            self.interrupts -= 1
            raise InterruptedError(errno.EINTR, "Interrupted system call")
        counts = fd == 7 and self.enabled
        self.runs += 1
        self.count += counts
        self.now += 130 if counts else 100
        return 0


@pytest.fixture
def vm(monkeypatch: pytest.MonkeyPatch) -> FakeVm:
    """Return a VM on a clock of its own."""
    vm = FakeVm()
    monkeypatch.setattr(fcntl, "ioctl", vm.ioctl)
    monkeypatch.setattr(time, "perf_counter_ns", lambda: vm.now)
    return vm


def test_the_kinds_take_turns_and_each_begins_every_other_round(vm: FakeVm) -> None:
    rounds = measure(vm, Pace(4, LONG, 3))
    assert vm.blocks == [True, False, False, True, True, False, False, True]
    assert rounds.differences == [0] * 4
    assert rounds.loads == 4 * (3 + 1)
    assert vm.runs == 2 * rounds.loads


def test_stolen_time_costs_what_the_trips_with_it_take_longer(vm: FakeVm) -> None:
    vm.enable()
    rounds = measure(vm, Pace(3, LONG, 5))
    assert (rounds.plain, rounds.counted) == ([100] * 15, [130] * 15)
    assert rounds.differences == [30] * 3
    assert (rounds.plain_updates, rounds.counted_updates) == (0, rounds.loads)


def test_the_first_trip_of_a_block_and_one_that_an_interrupt_hits_are_not_in_the_differences(
    vm: FakeVm, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = iter([5000, 0, 0, 9000] * 4)

    def ioctl(fd: int, request: int) -> int:
        vm.now += next(late)
        return vm.ioctl(fd, request)

    vm.enable()
    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    rounds = measure(vm, Pace(2, LONG, 3))
    assert rounds.differences == [30, 30]
    assert 5100 not in rounds.plain


def test_what_comes_before_a_trip_is_not_in_its_time(vm: FakeVm) -> None:
    def before_trip() -> None:
        vm.now += 10**6

    rounds = measure(vm, Pace(2, LONG, 3), before_trip)
    assert rounds.plain == [100] * 6
    assert vm.now == 2 * rounds.loads * (10**6 + 100)


def test_a_signal_repeats_the_block_and_nothing_is_counted_twice(vm: FakeVm) -> None:
    vm.enable()
    vm.interrupts = 2
    rounds = measure(vm, Pace(2, LONG, 3))
    assert (len(rounds.plain), len(rounds.counted)) == (6, 6)
    assert (rounds.plain_updates, rounds.counted_updates) == (0, rounds.loads)


def test_the_time_ends_it_too(vm: FakeVm) -> None:
    assert measure(vm, Pace(10**9, 0.05, 3)).differences


def test_no_garbage_is_collected_meanwhile_but_afterwards(vm: FakeVm) -> None:
    assert gc.isenabled()
    measure(vm, Pace(2, LONG, 3))
    assert not vm.collecting
    assert gc.isenabled()
