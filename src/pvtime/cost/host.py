# SPDX-License-Identifier: GPL-2.0-or-later
"""The cost of an update of stolen time on this host's own KVM, in ns."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from pvtime.cost.kvm_arm64 import arm64_round_trips
from pvtime.cost.kvm_x86 import x86_round_trips
from pvtime.cost.neighbour import Neighbour
from pvtime.cost.round_trips import Pace, Rounds, RoundTripVm, call_times, measure
from pvtime.cost.statistics import (
    CONFIDENCE,
    MedianInterval,
    Quartiles,
    difference_of,
    median_interval,
    quartiles,
)
from pvtime.engine.kvm.system import ARM64, DEVICE, X86
from pvtime.errors import UsageError
from pvtime.probe.affinity import one_cpu

__all__ = ["HostCost", "LoadCost", "measure_host"]

TRIPS: Final = 15
"""Trips of a block, without a neighbour."""
PREEMPTED_TRIPS: Final = 5
CALLS: Final = 2001

ROUND_TRIPS: Final[Mapping[str, Callable[[str], AbstractContextManager[RoundTripVm]]]] = {
    ARM64: arm64_round_trips,
    X86: x86_round_trips,
}


@dataclass(frozen=True)
class LoadCost:
    """The cost of an update at one kind of load."""

    name: str
    rounds: int
    without: Quartiles | None
    """Round trips without stolen time, in ns."""
    with_: Quartiles | None
    """Round trips with it."""
    difference: MedianInterval | None
    """With stolen time less without, by rounds; None: too few rounds."""
    control: MedianInterval | None
    """The same before stolen time was enabled: what the method itself finds."""
    loads: int
    """Calls of KVM_RUN with stolen time, all of them."""
    updates: int | None
    """Updates that the structure counted meanwhile; None: it does not count."""
    updates_without: int | None
    """Updates at as many calls without."""

    @property
    def update(self) -> MedianInterval | None:
        """The time of an update: the difference less the control's."""
        if self.difference is None or self.control is None:
            return None
        return difference_of(self.difference, self.control)

    @property
    def distinguishable(self) -> bool | None:
        """Whether the update's time can be told from this host's noise: its interval is above 0."""
        return None if self.update is None else self.update.low > 0


@dataclass(frozen=True)
class HostCost:
    """All that was measured on a host."""

    machine: str
    kernel: str
    """The host's, as uname(1) names it."""
    cpu: int
    """The CPU that everything ran on."""
    exit_name: str
    """The guest's way out of KVM_RUN."""
    call: Quartiles | None
    """Time of a request that does nothing, in ns: the part of a round trip that is Python's call, the system
    call and the clock."""
    loads: tuple[LoadCost, ...]


def measure_host(rounds: int, seconds: float, device: str = DEVICE) -> HostCost:
    """Measure, on one CPU.

    :param rounds: the most for each kind of load.
    :param seconds: the most for all.
    :raises UsageError: this host has no KVM for its architecture, no stolen time, or this user may not use
        it.
    :raises EngineError: KVM cannot run the guest.
    """
    machine = platform.machine()
    make = ROUND_TRIPS.get(machine)
    if make is None:
        raise UsageError(f"an update's cost is measured on arm64 and x86_64 hosts, and this one is {machine}")
    with make(device) as vm, one_cpu() as cpu, Neighbour() as neighbour:
        fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        try:
            call = quartiles(call_times(fd, CALLS))
        finally:
            os.close(fd)
        kinds = {
            "undisturbed": (Pace(rounds, seconds / 4, TRIPS), None),
            "preempted": (Pace(rounds, seconds / 4, PREEMPTED_TRIPS), neighbour.take_cpu),
        }
        controls = {name: measure(vm, *kind) for name, kind in kinds.items()}
        vm.enable()
        loads = [_load(name, measure(vm, *kind), controls[name]) for name, kind in kinds.items()]
        return HostCost(machine, platform.release(), cpu, vm.exit_name, call, tuple(loads))


def _load(name: str, measured: Rounds, control: Rounds) -> LoadCost:
    each = 1 - (1 - CONFIDENCE) / 2  # both intervals hold together with at least the confidence
    return LoadCost(
        name,
        len(measured.differences),
        quartiles(measured.plain),
        quartiles(measured.counted),
        median_interval(measured.differences, each),
        median_interval(control.differences, each),
        measured.loads,
        measured.counted_updates,
        measured.plain_updates,
    )
