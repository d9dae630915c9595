# SPDX-License-Identifier: GPL-2.0-or-later
"""The short form of ``pvtime cost --lab``: updates, one point of their growth, two workloads.

No time is compared: instructions are counted, and loads, entries and exits are of one source each.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from pvtime.cost.lab_frequencies import (
    measure_entries,
    measure_rates,
)
from pvtime.cost.lab_loads import LoadSetup
from pvtime.cost.lab_parts import Part
from pvtime.cost.lab_rates import RateSetup
from pvtime.cost.lab_steps import Symbols, observe, read_symbols
from pvtime.cost.lab_updates import (
    AS_MERGED,
    CACHED,
    MERGED,
    STRAIGHT,
    VCPUS,
    X86,
    UpdateCost,
    measure_growth,
    measure_module,
    measure_updates,
)
from pvtime.cost.lab_workloads import Workload
from pvtime.errors import UsageError
from pvtime.images.store import StockImages
from pvtime.kmod.build import COMPILER
from pvtime.lab.initramfs import LabExtras
from pvtime.lab.lab import Lab
from pvtime.lab.qemu import LabOptions


@pytest.fixture(scope="module")
def observed(qemu: str, stock_images: StockImages) -> Iterator[Lab]:
    """Return a booted lab that can be stepped through, with pvtime's kernel module."""
    if shutil.which(COMPILER) is None:
        pytest.skip(f"{COMPILER} is not installed: pvtime's module is not compiled")
    with Lab(LabOptions(smp=1, debug=True), extras=LabExtras(module=True)) as lab:
        yield lab


@pytest.fixture(scope="module")
def symbols(observed: Lab) -> Symbols:
    """Return the functions of its kernel."""
    return read_symbols(observed)


@pytest.fixture(scope="module")
def updates(observed: Lab, symbols: Symbols) -> list[UpdateCost]:
    """Return the costs of an update as merged: without a dirty log, and with one."""
    return measure_updates(observed, symbols)


def test_every_instruction_of_an_update_has_a_part(
    observed: Lab, symbols: Symbols, updates: list[UpdateCost]
) -> None:
    plain, logged = updates
    for update in updates:
        assert update.function == MERGED
        assert len(set(update.calls)) == 1, "an update is as long as another"
        assert all(update.parts.values())
        assert sum(update.parts.values()) == update.instructions
    more = logged.parts[Part.DIRTY] - plain.parts[Part.DIRTY]
    assert more == logged.instructions - plain.instructions > 0
    (grown,) = measure_growth(observed, symbols, [(VCPUS, 8, LoadSetup(vcpus=8))])
    assert set(grown.calls) == set(plain.calls)


def test_the_modules_updates_are_made_in_place_of_kvms(observed: Lab, updates: list[UpdateCost]) -> None:
    costs = {cost.name: cost.instructions for cost in measure_module(observed)}
    merged = updates[0]
    assert costs[STRAIGHT] < costs[CACHED] < costs[X86] < merged.instructions


def test_each_load_is_an_update_and_entries_without_a_load_are_none(observed: Lab) -> None:
    setups = [RateSetup(workload.value, 1, 1.0) for workload in (Workload.MMIO, Workload.HYPERCALL)]
    mmio, calls = measure_rates(observed, setups)
    for rate in (mmio, calls):
        entries, exits, statistics = rate.traced
        assert 0 < entries == exits == statistics
    # The signal that pauses the vCPU may come after the load and before its update.
    assert round(mmio.loads * mmio.window_s) >= round(mmio.user_exits * mmio.window_s) - 1 > 0
    assert 0 < calls.loads < calls.entries


def test_the_module_makes_an_update_at_each_entry(observed: Lab) -> None:
    setups = [
        (name, RateSetup(Workload.HYPERCALL.value, 1, 0.1, placement=placement, at_entries=True))
        for name, placement in ((STRAIGHT, "hypervisor"), (AS_MERGED, "userspace"))
    ]
    for rate in measure_entries(observed, setups):
        assert rate.updates >= rate.entries > 0


def test_a_function_that_the_compiler_inlined_is_named(observed: Lab, symbols: Symbols) -> None:
    with pytest.raises(UsageError, match="no function kvm_inlined: its compiler has inlined it"):
        list(observe(observed, symbols, ["true"], ["kvm_inlined"], 1))
