# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's memory as memory slots, which are taken away, made read-only and logged as a whole.

What a guest does to memory that is away makes exits, as where no device is: reads give zero, writes go
nowhere.
What KVM does with a structure of stolen time there (measured on Linux 6.1, tests/kvm/test_limit.py):

- An update fails without a word, also where the memory is read-only, and moves the kernel's baseline only
  when it has succeeded: all of it is made up for at the first load after the memory is back.
- PV_TIME_ST still answers with the address and takes its new baseline, but its zeroes are lost. When the
  memory is back the old count is there and goes on from the time of the call: neither the old total nor the
  new one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from mmap import PAGESIZE
from typing import Final

from pvtime.abi.kvm_types import MemoryFlag
from pvtime.engine.kvm.vm import WRITABLE, Vm
from pvtime.errors import EngineError
from pvtime.machine.layout import Region
from pvtime.machine.memory import GuestMemory
from pvtime.machine.memory_map import Access

__all__ = ["Slots", "runs"]

Extent = tuple[int, int]
"""IPA and length, in bytes."""

FLAGS: Final = {Access.READ: MemoryFlag.READONLY, Access.WRITE: WRITABLE}


def runs(bitmap: bytes) -> list[tuple[int, int]]:
    """Return where ``bitmap`` has ones: the first of each run, and how many.

    >>> runs(bytes([0b0110_0001, 0b1]))
    [(0, 1), (5, 2), (8, 1)]
    """
    text = f"{int.from_bytes(bitmap, 'little'):b}"[::-1]
    return [(found.start(), len(found[0])) for found in re.finditer("1+", text)]


class Slots:
    """Gives ``vm`` its memory.

    :raises KvmError: KVM refuses; EINVAL: not whole pages.
    """

    def __init__(self, vm: Vm, memories: Iterable[GuestMemory]) -> None:
        self._vm = vm
        self._memories = list(memories)
        self._numbers: dict[Region, int] = {}
        self._logging = False
        self._kept: list[Extent] = []
        """What was written to slots that are there no more."""
        for memory in self._memories:
            self._add(memory, Access.WRITE)

    def _add(self, memory: GuestMemory, access: Access) -> None:
        number = self._vm.set_memory(memory.region, memory.address, FLAGS[access])
        self._numbers[memory.region] = number
        if self._logging:
            self._vm.log_writes(number, True)

    def protect(self, region: Region, access: Access) -> None:
        """Take a slot away, make it read-only, or give it back. No vCPU is in the guest meanwhile.

        :raises EngineError: the region is not a slot.
        """
        for memory in self._memories:
            if (memory.base, memory.size) == (region.base, region.size):
                break
        else:
            slots = " and ".join(str(memory.region) for memory in self._memories)
            raise EngineError(f"the kvm engine cannot limit {region}: only all of {slots}")
        if (number := self._numbers.pop(memory.region, None)) is not None:
            if self._logging:
                self._kept += self._written(memory, number)
            self._vm.delete_memory(number)
        if access is not Access.NONE:
            self._add(memory, access)

    def log_writes(self, on: bool) -> None:
        """Have :meth:`written` know what is written from now on, or no longer."""
        self._logging = on
        self._kept.clear()
        for number in self._numbers.values():
            self._vm.log_writes(number, on)

    def written(self) -> list[Extent]:
        """Return which whole pages the guest, or the kernel for it, has written since the last call.

        pvtime itself writes the guest's memory at a reset, and a mark into a structure that the kernel writes
        at the vCPU's next load anyway (:mod:`pvtime.steal.kvm_truth`).
        """
        found, self._kept = self._kept, []
        for memory in self._memories:
            if (number := self._numbers.get(memory.region)) is not None:
                found += self._written(memory, number)
        return found

    def _written(self, memory: GuestMemory, number: int) -> list[Extent]:
        pages = runs(self._vm.written_pages(number))
        return [(memory.base + PAGESIZE * first, PAGESIZE * count) for first, count in pages]
