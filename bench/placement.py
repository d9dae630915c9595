#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What an update of the structure costs in each placement: a straight store, or through the memory map.

It times this program's own code, in which the memory map is a list and a store goes through the interpreter:
the ratio says which of the three has more to do, and not what a kernel's put_user costs.
"""

from __future__ import annotations

import itertools
import timeit
from typing import Final

from pvtime.abi.registration import Registration
from pvtime.machine.layout import RAM_BASE, STOLEN_TIME
from pvtime.machine.memory_map import MemoryMap
from pvtime.steal.account import Account
from pvtime.steal.placement import PlacementName
from pvtime.steal.placements import make_placement

ROUNDS: Final = 20_000
REPEATS: Final = 7


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


if __name__ == "__main__":
    main()
