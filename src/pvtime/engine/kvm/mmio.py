# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's MMIO accesses, on their way from the vCPUs' threads to the devices.

Writes to some registers do not come by an exit (KVM_CAP_COALESCED_MMIO): the kernel puts a write to a
registered zone into a ring and resumes the guest; a full ring, 170 writes with 4 KiB pages, makes an exit as
usual. The VM has one ring, in a page of every vCPU's mapping. What is in it comes before the access of an
exit, so that a device sees each vCPU's accesses in their order: one lock for the ring, taken only where it is
not empty. Devices have locks of their own where they need them.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Callable, Sequence
from typing import Final

from pvtime.abi.kvm_run import CoalescedMmio, CoalescedRing
from pvtime.machine.device import MmioDevice

__all__ = ["CoalescedMmioRing", "MmioBus"]

_PAGE_SHIFT: Final = 12

_HEAD: Final = ctypes.sizeof(CoalescedRing)
_WORDS: Final = ctypes.sizeof(CoalescedMmio) // 8
_FIRST, _LAST = 0, 1


class CoalescedMmioRing:
    """The ring of coalesced writes. Used by one thread at a time, under the caller's lock.

    :param mapping: that of any vCPU, with the ring in the page at ``offset``.
    """

    def __init__(self, mapping: mmap.mmap, offset: int) -> None:
        page = memoryview(mapping)[offset : offset + mmap.PAGESIZE]
        self.heads = page[:_HEAD].cast("I")
        """Indices of the first write and of the end; equal: the ring is empty."""
        self._entries = page[_HEAD:].cast("Q")
        self.capacity = (len(page) - _HEAD) // ctypes.sizeof(CoalescedMmio)

    def drain(self, write: Callable[[int, int, int], object]) -> None:
        """Call ``write(address, size, value)`` for every write in the ring, oldest first."""
        heads, entries = self.heads, self._entries
        first, last = heads[_FIRST], heads[_LAST]
        while first != last:
            entry = first * _WORDS
            address, length, value = entries[entry], entries[entry + 1] & 0xFFFF_FFFF, entries[entry + 2]
            write(address, length, value & ((1 << 8 * length) - 1))
            first = (first + 1) % self.capacity
            heads[_FIRST] = first

    def close(self) -> None:
        """Release the page."""
        self.heads.release()
        self._entries.release()


class MmioBus:
    """The devices, by address. An address of none reads as zero and ignores writes."""

    def __init__(self, devices: Sequence[MmioDevice], ring: CoalescedMmioRing | None = None) -> None:
        self._lock = threading.Lock()
        self._ring = ring
        self._heads: Sequence[int] = ring.heads if ring is not None else (0, 0)
        spans = {
            device: range(device.region.base >> _PAGE_SHIFT, device.region.end >> _PAGE_SHIFT)
            for device in devices
        }
        self._reads = {page: (dev.read, dev.region.base) for dev, pages in spans.items() for page in pages}
        self._writes = {page: (dev.write, dev.region.base) for dev, pages in spans.items() for page in pages}

    def read(self, address: int, size: int) -> int:
        """Return ``size`` bytes at ``address``."""
        heads = self._heads
        if heads[0] != heads[1]:
            self.flush()
        page = address >> _PAGE_SHIFT
        if page in self._reads:
            read, base = self._reads[page]
            return read(address - base, size)
        return 0

    def write(self, address: int, size: int, value: int) -> None:
        """Store ``size`` bytes at ``address``."""
        self.flush()
        self._write(address, size, value)

    def flush(self) -> None:
        """Hand the coalesced writes to their devices."""
        if self._ring is not None:
            with self._lock:
                self._ring.drain(self._write)

    def _write(self, address: int, size: int, value: int) -> None:
        if entry := self._writes.get(address >> _PAGE_SHIFT):
            write, base = entry
            write(address - base, size, value)
