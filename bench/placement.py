#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What an update of the structure costs in each placement: a straight store, or through the memory map.

It times this program's own code, in which the memory map is a list and a store goes through the interpreter:
the ratio says which of the three has more to do, and not what a kernel's put_user costs.
"""

from __future__ import annotations

import timeit
from typing import Final

from pvtime.abi.registration import Registration
from pvtime.machine.layout import RAM_BASE, STOLEN_TIME
from pvtime.machine.memory import GuestMemory
from pvtime.machine.memory_map import MemoryMap, Window
from pvtime.steal.placement import Hypervisor, Placement, Userspace
from pvtime.steal.registered import Registered

ROUNDS: Final = 20_000
REPEATS: Final = 7


def cost_ns(placement: Placement) -> float:
    """Return what one update takes: the count is read, added to, and written."""
    update = timeit.repeat(lambda: placement.store(placement.load() + 1), number=ROUNDS, repeat=REPEATS)
    return min(update) / ROUNDS * 1e9


def main() -> None:
    """Print a line for each placement."""
    memories = MemoryMap([])
    ram = memories.add(GuestMemory(RAM_BASE, 1 << 20, "RAM"))
    stolen = memories.add(GuestMemory(STOLEN_TIME.base, STOLEN_TIME.size, STOLEN_TIME.name))
    registered = Registered(Window(memories, ram.region))
    registered.give(Registration(RAM_BASE | 1))
    placements = [Hypervisor(stolen, 0), Userspace(Window(memories, stolen.region), 0), registered]
    costs = [cost_ns(placement) for placement in placements]
    for placement, cost in zip(placements, costs, strict=True):
        print(f"{placement.name.value:10} {cost:6.0f} ns an update, {cost / costs[0]:4.1f} times")
    memories.close()


if __name__ == "__main__":
    main()
