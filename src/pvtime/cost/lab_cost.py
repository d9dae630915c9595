# SPDX-License-Identifier: GPL-2.0-or-later
"""The cost of an update on the lab's KVM: all that is measured, in two labs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from pvtime.cost.lab_frequencies import EntryRate, WorkloadRate, measure_entries, measure_rates
from pvtime.cost.lab_steps import read_symbols
from pvtime.cost.lab_ticks import TickCost, measure_ticks
from pvtime.cost.lab_updates import (
    GrowthPoint,
    UpdateCost,
    measure_growth,
    measure_module,
    measure_updates,
)
from pvtime.errors import UsageError
from pvtime.images.cache import FetchProgress, cache_directory, silent
from pvtime.kmod.build import build_module
from pvtime.lab.initramfs import LabExtras
from pvtime.lab.lab import Lab
from pvtime.lab.qemu import LabOptions, qemu_version

__all__ = ["LabCost", "measure_lab"]

Progress = Callable[[str], object]


def _quiet(_doing: str) -> None:
    """Say nothing."""


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
    """Figures that could not be measured here, with the reasons."""

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
