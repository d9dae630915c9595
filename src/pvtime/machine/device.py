# SPDX-License-Identifier: GPL-2.0-or-later
"""What a memory-mapped device is to the machine around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pvtime.machine.layout import Region

__all__ = ["IrqLine", "MmioDevice"]

IrqLine = Callable[[bool], None]
"""Sets the level of one wire into the interrupt controller. Callable from any thread."""


class MmioDevice(Protocol):
    """Registers at :attr:`region`. The guest chooses offset, size and value: nothing it chooses raises.

    An access that no register answers reads as zero and is ignored when written (RAZ/WI).
    """

    @property
    def region(self) -> Region:
        """Where the registers are."""

    def read(self, offset: int, size: int) -> int:
        """Return ``size`` (1, 2, 4 or 8) bytes at ``offset`` into the region, little-endian."""

    def write(self, offset: int, size: int, value: int) -> None:
        """Store ``size`` bytes at ``offset`` into the region."""
