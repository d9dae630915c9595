# SPDX-License-Identifier: GPL-2.0-or-later
"""Instructions of an update on the lab's KVM, by part, and their growth with the VM.

The lab's kernel is stepped through from outside, without ``-icount``: with it, QEMU 7.2 hangs at a step in an
interrupt's handler.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from pvtime.cost.lab_loads import LoadSetup
from pvtime.cost.lab_parts import Part, function_counts, parts_of
from pvtime.cost.lab_steps import FunctionRun, Symbols, observe, read_symbols
from pvtime.lab.lab import Lab
from pvtime.lab.module import load_module, unload_module
from pvtime.lab.qemu import LabError

__all__ = [
    "AS_MERGED",
    "CACHED",
    "GROWTH",
    "MERGED",
    "MISSED_SLOTS",
    "SLOTS",
    "STRAIGHT",
    "VCPUS",
    "X86",
    "GrowthPoint",
    "UpdateCost",
    "measure_growth",
    "measure_module",
    "measure_updates",
    "update_cost",
]

MERGED: Final = "kvm_update_stolen_time"
LOADS: Final = ("python3", "-m", "pvtime.cost.lab_loads")

CALLS: Final = 4
"""Calls of a function that are stepped through."""

MISSED_CALLS: Final = 10
"""The same, where the calls are of two vCPUs and differ."""


@dataclass(frozen=True)
class UpdateCost:
    """Instructions of one update."""

    name: str
    function: str
    calls: tuple[int, ...]
    """Instructions of each call that was stepped through."""
    parts: dict[Part, int]
    """Of a usual call. The module's updates have their user accesses in the rest: nothing tells where an
    access begins that no look-up precedes."""
    functions: dict[str, int]
    listing: dict[int, tuple[int, int]] = field(default_factory=dict)
    """The function's own instructions: by offset, the word, and how often it was executed."""

    @property
    def instructions(self) -> int:
        """The most frequent count, the least of those."""
        counts = Counter(self.calls)
        return min(counts, key=lambda count: (-counts[count], count))


def update_cost(name: str, runs: Sequence[FunctionRun]) -> UpdateCost:
    """Return the cost that calls of a function have shown.

    :raises LabError: there was none.
    """
    if not runs:
        raise LabError(f"{name}: no update was made at any load")
    calls = tuple(len(run) for run in runs)
    usual = UpdateCost(name, runs[0].function, calls, {}, {}).instructions
    run = next(run for run in runs if len(run) == usual)
    own = [each for each in run.path if each.function == run.function]
    parts = parts_of(run, tell_accesses=run.function == MERGED)
    times = Counter(each.offset for each in own)
    listing = {each.offset: (each.word, times[each.offset]) for each in sorted(own, key=lambda e: e.offset)}
    return UpdateCost(name, run.function, calls, parts, function_counts(run), listing)


@dataclass(frozen=True)
class GrowthPoint:
    """Instructions of an update in a VM of some size."""

    axis: str
    """``vcpus``; ``slots``: memory slots; ``slots, other looked up last``: the same, where KVM's last look-up
    was of another slot."""
    value: int
    calls: tuple[int, ...]

    @property
    def least(self) -> int:
        """The least of the calls."""
        return min(self.calls)

    @property
    def most(self) -> int:
        """The most of the calls."""
        return max(self.calls)


VCPUS: Final = "vcpus"
SLOTS: Final = "slots"
MISSED_SLOTS: Final = "slots, other looked up last"

GROWTH: Final = (
    *((VCPUS, count, LoadSetup(vcpus=count, loads=CALLS)) for count in (1, 8, 64, 256, 512)),
    *((SLOTS, count, LoadSetup(slots=count, loads=CALLS)) for count in (2, 16, 128, 500)),
    *(
        (MISSED_SLOTS, count, LoadSetup(vcpus=2, slots=count, two_slots=True, loads=MISSED_CALLS))
        for count in (3, 16, 128, 500)
    ),
)

AS_MERGED: Final = "put_user, as merged"

UPDATES: Final = (
    (AS_MERGED, LoadSetup(loads=CALLS)),
    ("put_user, writes logged", LoadSetup(dirty_log=True, loads=CALLS)),
)


CACHED: Final = "cached mapping"
STRAIGHT: Final = "straight store"
X86: Final = "as x86 has it"

MODULE_UPDATES: Final = (
    (STRAIGHT, "pvtime_straight", LoadSetup(placement="hypervisor", method="kvm", loads=CALLS)),
    (CACHED, "pvtime_cached", LoadSetup(method="cached", loads=CALLS)),
    (X86, "pvtime_x86", LoadSetup(placement="guest", method="kvm", loads=CALLS)),
)
"""The updates of pvtime's kernel module, with its functions."""


def _observed(
    lab: Lab, symbols: Symbols, setups: Sequence[LoadSetup], functions: Sequence[str]
) -> Iterator[list[FunctionRun]]:
    calls = max(setup.loads for setup in setups)
    return observe(lab, symbols, [*LOADS, *(setup.encode() for setup in setups)], functions, calls)


def measure_updates(lab: Lab, symbols: Symbols) -> list[UpdateCost]:
    """Step through KVM's own update.

    :raises UsageError: the kernel's compiler has inlined it.
    :raises LabError: the lab has stopped, or no update was made.
    """
    observed = _observed(lab, symbols, [setup for _, setup in UPDATES], [MERGED])
    return [update_cost(name, runs) for (name, _), runs in zip(UPDATES, observed, strict=True)]


def measure_module(lab: Lab) -> list[UpdateCost]:
    """Load pvtime's kernel module, step through its updates, and unload it.

    :raises LabError: the lab has stopped, its kernel does not take the module, or no update was made.
    """
    load_module(lab)
    symbols = read_symbols(lab)
    functions = [function for _, function, _ in MODULE_UPDATES]
    observed = _observed(lab, symbols, [setup for _, _, setup in MODULE_UPDATES], functions)
    costs = [update_cost(name, runs) for (name, _, _), runs in zip(MODULE_UPDATES, observed, strict=True)]
    unload_module(lab)
    for cost, (name, function, _) in zip(costs, MODULE_UPDATES, strict=True):
        if cost.function != function:
            raise LabError(f"{name}: {cost.function} made the update, and not {function}")
    return costs


def measure_growth(
    lab: Lab, symbols: Symbols, points: Sequence[tuple[str, int, LoadSetup]] = GROWTH
) -> list[GrowthPoint]:
    """Step through KVM's own update in VMs of many sizes.

    :raises UsageError: the kernel's compiler has inlined it.
    :raises LabError: the lab has stopped, or no update was made.
    """
    observed = _observed(lab, symbols, [setup for _, _, setup in points], [MERGED])
    found = []
    for (axis, value, _), runs in zip(points, observed, strict=True):
        if not runs:
            raise LabError(f"{value} {axis}: no update was made at any load")
        found.append(GrowthPoint(axis, value, tuple(len(run) for run in runs)))
    return found
