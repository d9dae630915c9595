# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's memory as memory slots, each of which is taken away, made read-only or logged as a whole.

An access of the guest to memory that is away makes an exit, like that to an address without a device: reads
give zero, writes are ignored. KVM and a structure of stolen time in such memory (measured on Linux 6.1,
tests/kvm/test_limit.py):

- An update fails without a word, also where the memory is read-only, and moves the kernel's baseline only
  when it has succeeded: all of it is made up for at the first load after the memory is back.
- PV_TIME_ST still answers with the address and takes its new baseline, but its zeroes are lost. When the
  memory is back, the old count is in it and continues from the time of the call: neither the old total nor
  the new one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from mmap import PAGESIZE
from typing import Final

from pvtime.abi.kvm_types import MemoryFlag
from pvtime.engine.kvm.vm_fd import WRITABLE, VmFd
from pvtime.errors import EngineError
from pvtime.machine.layout import Region
from pvtime.machine.memory import GuestMemory
from pvtime.machine.memory_map import Access

__all__ = ["MemorySlots", "runs"]

Extent = tuple[int, int]
"""IPA and length, in bytes."""

FLAGS: Final = {Access.READ: MemoryFlag.READONLY, Access.WRITE: WRITABLE}


def runs(bitmap: bytes) -> list[tuple[int, int]]:
    """Return the runs of ones in ``bitmap``: the first bit of each, and its length.

    >>> runs(bytes([0b0110_0001, 0b1]))
    [(0, 1), (5, 2), (8, 1)]
    """
    text = f"{int.from_bytes(bitmap, 'little'):b}"[::-1]
    return [(run.start(), len(run[0])) for run in re.finditer("1+", text)]


class MemorySlots:
    """The memory of ``vm``, one slot a region.

    :raises KvmError: KVM refuses; EINVAL: not whole pages.
    """

    def __init__(self, vm: VmFd, memories: Iterable[GuestMemory]) -> None:
        self._vm = vm
        self._memories = list(memories)
        self._numbers: dict[Region, int] = {}
        self._logging = False
        self._carried_over: list[Extent] = []
        """Pages that were written in slots that were deleted since."""
        for memory in self._memories:
            self._add(memory, Access.WRITE)

    def _add(self, memory: GuestMemory, access: Access) -> None:
        number = self._vm.set_memory(memory.region, memory.address, FLAGS[access])
        self._numbers[memory.region] = number
        if self._logging:
            self._vm.log_writes(number, True)

    def protect(self, region: Region, access: Access) -> None:
        """Set the guest's access to a slot. No vCPU is in the guest meanwhile.

        :raises EngineError: the region is not a slot.
        """
        for memory in self._memories:
            if (memory.base, memory.size) == (region.base, region.size):
                break
        else:
            slots = " and ".join(str(memory.region) for memory in self._memories)
            raise EngineError(f"the kvm engine can protect whole regions alone ({slots}), not {region}")
        if (number := self._numbers.pop(memory.region, None)) is not None:
            if self._logging:
                self._carried_over += self._written(memory, number)
            self._vm.delete_memory(number)
        if access is not Access.NONE:
            self._add(memory, access)

    def log_writes(self, on: bool) -> None:
        """Have :meth:`written` know the pages that are written from now on, or stop that."""
        self._logging = on
        self._carried_over.clear()
        for number in self._numbers.values():
            self._vm.log_writes(number, on)

    def written(self) -> list[Extent]:
        """Return the whole pages that the guest, or the kernel for it, has written since the last call.

        pvtime itself writes the guest's memory at a reset alone.
        """
        written, self._carried_over = self._carried_over, []
        for memory in self._memories:
            if (number := self._numbers.get(memory.region)) is not None:
                written += self._written(memory, number)
        return written

    def _written(self, memory: GuestMemory, number: int) -> list[Extent]:
        pages = runs(self._vm.written_pages(number))
        return [(memory.base + PAGESIZE * first, PAGESIZE * count) for first, count in pages]
