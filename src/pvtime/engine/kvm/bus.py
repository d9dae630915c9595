# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's MMIO accesses, on their way from every vCPU's thread to the devices.

One lock for all devices: their registers are for one thread at a time, and an access takes about a
microsecond. With the ring of collected writes, the writes in it come first, so that a device sees what each
vCPU did in its order.
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
        self._pages = {
            page: (device, device.region.base)
            for device in devices
            for page in range(device.region.base >> _PAGE_SHIFT, device.region.end >> _PAGE_SHIFT)
        }

    def read(self, address: int, size: int) -> int:
        """Return ``size`` bytes at ``address``."""
        with self._lock:
            if self._heads[0] != self._heads[1]:
                self._drain()
            found = self._pages.get(address >> _PAGE_SHIFT)
            return found[0].read(address - found[1], size) if found else 0

    def write(self, address: int, size: int, value: int) -> None:
        """Store ``size`` bytes at ``address``."""
        with self._lock:
            if self._heads[0] != self._heads[1]:
                self._drain()
            self._write(address, size, value)

    def flush(self) -> None:
        """Bring the collected writes to their devices."""
        with self._lock:
            if self._heads[0] != self._heads[1]:
                self._drain()

    def _drain(self) -> None:
        if self._ring is not None:
            self._ring.drain(self._write)

    def _write(self, address: int, size: int, value: int) -> None:
        if found := self._pages.get(address >> _PAGE_SHIFT):
            found[0].write(address - found[1], size, value)
