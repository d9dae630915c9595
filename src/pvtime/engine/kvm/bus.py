# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's MMIO accesses, on their way from every vCPU's thread to the devices.

Devices have locks of their own where they need them. With the ring of collected writes, the writes in it
come first, so that a device sees what each vCPU did in its order: one lock for the ring, taken only where
something is in it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

from pvtime.engine.kvm.ring import Ring
from pvtime.machine.device import MmioDevice

__all__ = ["Bus"]

_PAGE_SHIFT: Final = 12


class Bus:
    """Finds the device for an address. What no device answers reads as zero and is ignored when written."""

    def __init__(self, devices: Sequence[MmioDevice], ring: Ring | None = None) -> None:
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
        """Bring the collected writes to their devices."""
        if self._ring is not None:
            with self._lock:
                self._ring.drain(self._write)

    def _write(self, address: int, size: int, value: int) -> None:
        if found := self._writes.get(address >> _PAGE_SHIFT):
            write, base = found
            write(address - base, size, value)
