# SPDX-License-Identifier: GPL-2.0-or-later
"""Frequencies of loads and entries of guests on the lab's KVM, and of updates where each entry makes one.

The lab's time is the count of its instructions (``-icount``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pvtime.cost.lab_rates import RateSetup, WindowCounts
from pvtime.cost.lab_updates import AS_MERGED, STRAIGHT
from pvtime.cost.lab_workloads import Workload
from pvtime.lab.lab import Lab
from pvtime.lab.module import load_module, unload_module
from pvtime.lab.qemu import LabError

__all__ = [
    "INSTRUCTION_NS",
    "RATES",
    "EntryRate",
    "WorkloadRate",
    "measure_entries",
    "measure_rates",
    "rate_of",
    "share",
]

RATES_COMMAND: Final = ("python3", "-m", "pvtime.cost.lab_rates")

INSTRUCTION_NS: Final = 2
"""The lab's time for one instruction (``-icount shift=1``)."""


@dataclass(frozen=True)
class WorkloadRate:
    """A guest's loads and entries, per second of the lab's one CPU, all vCPUs together."""

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
