# SPDX-License-Identifier: GPL-2.0-or-later
"""The ring of collected writes (KVM_CAP_COALESCED_MMIO): characters that cost no exit each.

The kernel puts a write to a registered zone into the ring and lets the guest go on; a full ring, 170 writes
with 4 KiB pages, makes an exit as usual. There is one ring for the whole VM, which every vCPU maps.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from typing import Final

from pvtime.abi.kvm_run import CoalescedMmio, CoalescedRing

__all__ = ["Ring"]

_HEAD: Final = ctypes.sizeof(CoalescedRing)
_WORDS: Final = ctypes.sizeof(CoalescedMmio) // 8
_FIRST, _LAST = 0, 1


class Ring:
    """Takes writes out of the ring, oldest first. One thread at a time: the caller's lock says which.

    :param mapping: any vCPU's; the ring is in the page at ``offset``.
    """

    def __init__(self, mapping: mmap.mmap, offset: int) -> None:
        page = memoryview(mapping)[offset : offset + mmap.PAGESIZE]
        self.heads = page[:_HEAD].cast("I")
        """First and last: unequal, something waits."""
        self._entries = page[_HEAD:].cast("Q")
        self.capacity = (len(page) - _HEAD) // ctypes.sizeof(CoalescedMmio)

    def drain(self, write: Callable[[int, int, int], object]) -> None:
        """Hand every write that waits to ``write(address, size, value)``."""
        heads, entries = self.heads, self._entries
        first, last = heads[_FIRST], heads[_LAST]
        while first != last:
            at = first * _WORDS
            address, length, value = entries[at], entries[at + 1] & 0xFFFF_FFFF, entries[at + 2]
            write(address, length, value & ((1 << 8 * length) - 1))
            first = (first + 1) % self.capacity
            heads[_FIRST] = first

    def close(self) -> None:
        """Let go of the page."""
        self.heads.release()
        self._entries.release()
