#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The cost of an update of the structure in each placement: a straight store, or through the memory map.

It times this program's own code, in which the memory map is a list and a store goes through the interpreter:
the ratio says which of the three has more to do, and not what a kernel's put_user costs.
"""

from __future__ import annotations

import itertools
import statistics
import timeit
from collections.abc import Iterator
from functools import partial
from typing import Final

from pvtime.abi.registration import Registration
from pvtime.machine.layout import MAX_GICV2_VCPUS, RAM_BASE, STOLEN_TIME
from pvtime.machine.memory_map import MemoryMap
from pvtime.steal.account import Account
from pvtime.steal.placement import PlacementName
from pvtime.steal.placements import make_placement

ROUNDS: Final = 20_000
REPEATS: Final = 7
VCPUS: Final = (1, 2, 4, MAX_GICV2_VCPUS)


def cost_ns(name: PlacementName) -> tuple[float, float]:
    """Return what one update of vCPU 0's structure takes: the load and the store alone, and the account's."""
    memories = MemoryMap([])
    memories.allocate(RAM_BASE, 1 << 20, "RAM")
    structure = make_placement(name, memories, 1, STOLEN_TIME.base).structure(0)
    structure.register(Registration(RAM_BASE | 1))
    account = Account(structure)
    run_delays = itertools.count(1)
    store = timeit.repeat(lambda: structure.store(structure.load() + 1), number=ROUNDS, repeat=REPEATS)
    update = timeit.repeat(
        lambda: account.update_stolen_time(next(run_delays)), number=ROUNDS, repeat=REPEATS
    )
    memories.close()
    return min(store) / ROUNDS * 1e9, min(update) / ROUNDS * 1e9


def update(account: Account, run_delays: Iterator[int]) -> None:
    """Update a structure."""
    account.update_stolen_time(next(run_delays))


def growth() -> dict[int, float]:
    """Return what an update of the last vCPU's structure takes, in ns, by the number of vCPUs; in turn."""
    accounts, maps = {}, []
    for vcpus in VCPUS:
        memories = MemoryMap([])
        placement = make_placement(PlacementName.USERSPACE, memories, vcpus, STOLEN_TIME.base)
        accounts[vcpus] = Account(placement.structure(vcpus - 1))
        maps.append(memories)
    run_delays = itertools.count(1)
    times: dict[int, list[float]] = {vcpus: [] for vcpus in VCPUS}
    for _ in range(REPEATS):
        for vcpus, account in accounts.items():
            times[vcpus].append(timeit.timeit(partial(update, account, run_delays), number=ROUNDS))
    for memories in maps:
        memories.close()
    return {vcpus: statistics.median(found) / ROUNDS * 1e9 for vcpus, found in times.items()}


def main() -> None:
    """Print a line for each placement."""
    costs = {
        name: cost_ns(name)
        for name in (PlacementName.HYPERVISOR, PlacementName.USERSPACE, PlacementName.GUEST)
    }
    straight = costs[PlacementName.HYPERVISOR][0]
    for name, (store, update) in costs.items():
        ratio = store / straight
        print(
            f"{name.value:10} load and store {store:5.0f} ns, {ratio:4.1f} times; "
            f"with the account's rules {update:5.0f} ns"
        )
    grown = growth()
    base = grown[VCPUS[0]]
    found = ", ".join(f"{vcpus}: {ns:.0f} ns ({ns / base:.2f})" for vcpus, ns in grown.items())
    print(f"update by the number of vCPUs, and as a ratio to one: {found}")


if __name__ == "__main__":
    main()
