# SPDX-License-Identifier: GPL-2.0-or-later
"""The cost of an update on the lab's KVM: its instructions by part, their growth, and how often it is made.

Two labs: one without ``-icount`` whose kernel is stepped through from outside (with it, QEMU 7.2 hangs at a
step in an interrupt's handler), and one with it whose time is the count of its instructions, for rates.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from pvtime.cost.lab_loads import LoadSetup
from pvtime.cost.lab_parts import Part, function_counts, parts_of
from pvtime.cost.lab_rates import RateSetup, WindowCounts
from pvtime.cost.lab_steps import FunctionRun, Symbols, observe, read_symbols
from pvtime.cost.lab_ticks import TickCost, measure_ticks
from pvtime.cost.lab_workloads import Workload
from pvtime.errors import UsageError
from pvtime.images.cache import FetchProgress, cache_directory, silent
from pvtime.kmod.build import build_module
from pvtime.lab.initramfs import LabExtras
from pvtime.lab.lab import Lab
from pvtime.lab.module import load_module, unload_module
from pvtime.lab.qemu import LabError, LabOptions, qemu_version

__all__ = [
    "AS_MERGED",
    "CACHED",
    "GROWTH",
    "INSTRUCTION_NS",
    "MERGED",
    "MISSED_SLOTS",
    "RATES",
    "SLOTS",
    "STRAIGHT",
    "VCPUS",
    "X86",
    "EntryRate",
    "GrowthPoint",
    "LabCost",
    "UpdateCost",
    "WorkloadRate",
    "measure_entries",
    "measure_growth",
    "measure_lab",
    "measure_module",
    "measure_rates",
    "measure_updates",
    "rate_of",
    "share",
    "update_cost",
]

MERGED: Final = "kvm_update_stolen_time"
LOADS: Final = ("python3", "-m", "pvtime.cost.lab_loads")
RATES_COMMAND: Final = ("python3", "-m", "pvtime.cost.lab_rates")

CALLS: Final = 4
"""Calls of a function that are stepped through."""

MISSED_CALLS: Final = 10
"""The same, where the calls are of two vCPUs and differ."""

INSTRUCTION_NS: Final = 2
"""The lab's time for one instruction (``-icount shift=1``)."""

Progress = Callable[[str], object]


def _quiet(_doing: str) -> None:
    """Say nothing."""


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


@dataclass(frozen=True)
class WorkloadRate:
    """How often a guest is loaded and entered, per second of the lab's one CPU, all vCPUs together."""

    workload: str
    vcpus: int
    window_s: float
    loads: float
    entries: float
    user_exits: float
    uncounted_entries: float
    """Entries a second without the probe that counts the loads."""
    traced: tuple[int, int, int]
    """In a window of its own: entries and exits by the tracepoints, and exits by KVM's statistics."""


RATES: Final = tuple(
    RateSetup(workload.value, vcpus, window_s)
    for workload, window_s in (
        (Workload.IDLE, 0.4),
        (Workload.COMPUTE, 0.4),
        (Workload.MMIO, 0.08),
        (Workload.HYPERCALL, 0.08),
        (Workload.WFI, 0.2),
    )
    for vcpus in (1, 2, 4)
)


def rate_of(setup: RateSetup, windows: Sequence[WindowCounts]) -> WorkloadRate:
    """Return the rates that a guest's windows show: counted, traced, without a probe.

    :raises LabError: a count is missing.
    """
    counted, traced, plain = windows
    if counted.updates is None or traced.traced_entries is None or traced.traced_exits is None:
        raise LabError(f"{setup.workload}: the lab did not count")
    seconds = counted.duration_ns / 1e9
    return WorkloadRate(
        workload=setup.workload,
        vcpus=setup.vcpus,
        window_s=seconds,
        loads=counted.updates / seconds,
        entries=counted.exits / seconds,
        user_exits=counted.user_exits / seconds,
        uncounted_entries=plain.exits / plain.duration_ns * 1e9,
        traced=(traced.traced_entries, traced.traced_exits, traced.exits),
    )


def measure_rates(lab: Lab, setups: Sequence[RateSetup] = RATES) -> list[WorkloadRate]:
    """Run the guests, in a lab with :attr:`LabOptions.icount` and one CPU.

    :raises LabError: the lab has stopped, or its kernel has no tracefs.
    """
    return [rate_of(setup, windows) for setup, windows in zip(setups, _windows(lab, setups), strict=True)]


def _windows(lab: Lab, setups: Sequence[RateSetup]) -> list[list[WindowCounts]]:
    done = lab.run([*RATES_COMMAND, *(setup.encode() for setup in setups)])
    if done.exit_code:
        text = done.stderr.decode(errors="replace").strip()
        raise LabError(f"counting failed in the lab: {text.splitlines()[-1] if text else done.exit_code}")
    lines = done.stdout.decode().splitlines()
    return [[WindowCounts(**window) for window in json.loads(line)] for line in lines]


@dataclass(frozen=True)
class EntryRate:
    """Updates of pvtime's kernel module at each entry to a guest, per second."""

    update: str
    """Name of the update."""
    workload: str
    entries: float
    updates: float


AT_ENTRIES: Final = tuple(
    (name, RateSetup(workload.value, 1, window_s, placement=placement, at_entries=True))
    for workload, window_s in ((Workload.COMPUTE, 0.4), (Workload.MMIO, 0.08), (Workload.HYPERCALL, 0.08))
    for name, placement in ((STRAIGHT, "hypervisor"), (AS_MERGED, "userspace"))
)


def measure_entries(lab: Lab, setups: Sequence[tuple[str, RateSetup]] = AT_ENTRIES) -> list[EntryRate]:
    """Load pvtime's kernel module, run guests with an update at each entry, and unload it.

    :raises LabError: the lab has stopped, or its kernel does not take the module.
    """
    load_module(lab)
    counted = _windows(lab, [setup for _, setup in setups])
    unload_module(lab)
    found = []
    for (name, setup), (window,) in zip(setups, counted, strict=True):
        if window.updates is None:
            raise LabError(f"{setup.workload}: the module did not count")
        seconds = window.duration_ns / 1e9
        found.append(EntryRate(name, setup.workload, window.exits / seconds, window.updates / seconds))
    return found


def share(instructions: float, rate: float) -> float:
    """Return the share of a CPU's instructions that ``instructions`` at ``rate`` a second are, in the lab."""
    return instructions * rate * INSTRUCTION_NS / 1e9


@dataclass(frozen=True)
class LabCost:
    """All that was measured."""

    kernel: str
    qemu: str
    cpu: str
    date: str
    updates: list[UpdateCost]
    growth: list[GrowthPoint]
    ticks: list[TickCost]
    rates: list[WorkloadRate]
    entries: list[EntryRate] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    """What could not be measured here, and why."""

    def update(self, name: str) -> UpdateCost | None:
        """Return an update's cost by its name; None: it was not measured."""
        return next((update for update in self.updates if update.name == name), None)


def measure_lab(cpu: str, progress: Progress = _quiet, fetching: FetchProgress = silent) -> LabCost:
    """Measure everything, in two labs; it takes some minutes.

    :raises UsageError: QEMU is not installed, the lab's packages cannot be had, or the kernel is not fit.
    :raises LabError: a lab does not boot or stopped.
    """
    options = LabOptions(cpu=cpu, smp=1)
    progress("booting a lab to look into its kernel")
    absent = {}
    try:
        build_module(cache_directory(), fetching)
    except UsageError as error:
        absent["the module's updates"] = str(error)
    extras = LabExtras(module=not absent)
    with Lab(replace(options, debug=True), extras=extras) as lab:
        kernel = lab.run(["uname", "-rv"]).stdout.decode().strip()
        symbols = read_symbols(lab)
        progress("stepping through updates")
        updates = measure_updates(lab, symbols)
        if not absent:
            progress("stepping through updates of pvtime's kernel module")
            updates = [*updates, *measure_module(lab)]
        progress("stepping through updates of larger VMs")
        growth = measure_growth(lab, symbols)
        progress("stepping through a guest's ticks")
        ticks = measure_ticks(lab, symbols)
    progress("booting a lab whose time is the count of its instructions")
    with Lab(replace(options, icount=True), extras=extras) as lab:
        progress("counting loads and entries")
        rates = measure_rates(lab)
        entries = [] if absent else measure_entries(lab)
    today = datetime.now(UTC).date().isoformat()
    return LabCost(kernel, qemu_version(), cpu, today, updates, growth, ticks, rates, entries, absent)
