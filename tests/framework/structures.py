# SPDX-License-Identifier: GPL-2.0-or-later
"""A VMM's memory for a structure, and what KVM does to it, for tests of the truth beside it."""

from __future__ import annotations

from pvtime.abi.pvtime import StolenTime
from pvtime.machine.layout import STOLEN_TIME
from pvtime.machine.memory_map import MemoryMap
from pvtime.steal.kvm_truth import KvmTruth, NoticedCalls
from pvtime.steal.placement import UserspacePlacement

__all__ = ["Structures"]

COUNT = STOLEN_TIME.base + StolenTime.stolen_time.offset


class Structures:
    """The memory of vCPU 0's structure, to be closed by its map."""

    def __init__(self) -> None:
        self.map = MemoryMap([])
        self.placement = UserspacePlacement(self.map, STOLEN_TIME.base)
        self.memory = self.map.memories[0]
        self.hypercalls = 0
        """The vCPU's, as KVM counts them."""

    def truth(self) -> KvmTruth:
        """Return a truth beside the structure."""
        structure = self.placement.own_structure(0)
        return KvmTruth(structure, NoticedCalls(structure, lambda: self.hypercalls))

    def call(self) -> None:
        """Do what PV_TIME_ST does (kvm_init_stolen_time)."""
        self.hypercalls += 1
        self.memory.write(STOLEN_TIME.base, bytes(64))

    def count(self, stolen: int) -> None:
        """Write the count."""
        self.memory.store_u64(COUNT, stolen)

    def add(self, ns: int) -> None:
        """Bring the structure up to date as KVM does (kvm_update_stolen_time)."""
        self.count(self.memory.load_u64(COUNT) + ns)
