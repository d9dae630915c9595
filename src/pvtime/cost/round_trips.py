# SPDX-License-Identifier: GPL-2.0-or-later
"""The time of one KVM_RUN: load of the vCPU, entry, and the exit of a guest that leaves at once.

Two kinds of blocks alternate, without and with stolen time, and which of them begins a round alternates too.
Each round gives one difference, of the medians of its blocks. So a drift of the host's speed is in both, and
a trip that an interrupt hit is in neither.
"""

from __future__ import annotations

import fcntl
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median_low
from typing import Final, Protocol

from pvtime.abi.kvm import KvmIoctl

__all__ = ["KVM_RUN", "Pace", "RoundTripVm", "Rounds", "call_times", "measure"]

KVM_RUN: Final = int(KvmIoctl.RUN)
WARM: Final = 1
"""Trips at the beginning of a block that are not counted: the other kind was before them."""


class RoundTripVm(Protocol):
    """A VM whose guest leaves KVM_RUN at once."""

    exit_name: str
    """The guest's way out, for people."""

    def enable(self) -> None:
        """Have a vCPU with stolen time from now on: until then, both kinds of blocks are without it."""

    def select(self, counted: bool) -> int:
        """Prepare a block and return the descriptor of the vCPU to run.

        :param counted: with stolen time.
        """

    def check_exit(self, counted: bool) -> None:
        """Check the last exit of a block.

        :raises EngineError: it was not the guest's way out.
        """

    def updates(self) -> int | None:
        """Return the number of updates of the structure so far; None: the structure does not tell."""

    def stolen_ns(self) -> int:
        """Return the count in the structure."""


@dataclass(frozen=True)
class Pace:
    """The extent of a measurement: what is reached first ends it."""

    rounds: int
    seconds: float
    trips: int
    """Trips of a block that are counted; odd, so that their median is one of them."""


@dataclass
class Rounds:
    """Measurements, in ns."""

    plain: list[int] = field(default_factory=list)
    """Each trip without stolen time."""
    counted: list[int] = field(default_factory=list)
    """Each trip with it."""
    differences: list[int] = field(default_factory=list)
    """One for each round."""
    plain_updates: int | None = None
    """Updates of the structure in all blocks without stolen time, trips that were not counted included."""
    counted_updates: int | None = None
    """Updates in the blocks with it."""

    @property
    def loads(self) -> int:
        """Calls of KVM_RUN in all blocks of one kind."""
        return len(self.plain) + WARM * len(self.differences)


def measure(vm: RoundTripVm, pace: Pace, before_trip: Callable[[], object] | None = None) -> Rounds:
    """Measure rounds on the calling thread.

    :param before_trip: called before each trip, outside of its time.
    :raises EngineError: KVM cannot run the guest.
    """
    rounds = Rounds()
    end = time.monotonic() + pace.seconds
    collecting = gc.isenabled()
    gc.disable()
    try:
        while len(rounds.differences) < pace.rounds and time.monotonic() < end:
            order = (False, True) if len(rounds.differences) % 2 else (True, False)
            blocks = {counted: _block(vm, counted, pace.trips, before_trip, rounds) for counted in order}
            rounds.plain += blocks[False]
            rounds.counted += blocks[True]
            rounds.differences.append(median_low(blocks[True]) - median_low(blocks[False]))
    finally:
        if collecting:
            gc.enable()
    return rounds


def _block(
    vm: RoundTripVm, counted: bool, trips: int, before_trip: Callable[[], object] | None, rounds: Rounds
) -> list[int]:
    """Measure the trips of one block."""
    fd = vm.select(counted)
    before = vm.updates()
    while True:
        try:
            times = _trips(fd, WARM + trips, before_trip)
        except InterruptedError:  # by a signal that has been handled, such as SIGCONT
            before = vm.updates()
            continue
        break
    vm.check_exit(counted)
    after = vm.updates()
    if before is not None and after is not None:
        if counted:
            rounds.counted_updates = (rounds.counted_updates or 0) + after - before
        else:
            rounds.plain_updates = (rounds.plain_updates or 0) + after - before
    return times[WARM:]


def _trips(fd: int, count: int, before_trip: Callable[[], object] | None) -> list[int]:
    clock, ioctl, request = time.perf_counter_ns, fcntl.ioctl, KVM_RUN
    times = []
    for _ in range(count):
        if before_trip is not None:
            before_trip()
        began = clock()
        ioctl(fd, request)
        times.append(clock() - began)
    return times


def call_times(fd: int, count: int) -> list[int]:
    """Return the times of a request that does nothing: Python's call, the system call, the clock.

    :param fd: of /dev/kvm.
    """
    clock, ioctl, request = time.perf_counter_ns, fcntl.ioctl, int(KvmIoctl.GET_API_VERSION)
    times = []
    for _ in range(count):
        began = clock()
        ioctl(fd, request)
        times.append(clock() - began)
    return times
