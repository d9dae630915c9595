# SPDX-License-Identifier: GPL-2.0-or-later
"""Interfaces of a memory-mapped device to the machine around it: registers and an interrupt wire."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Protocol

from pvtime.machine.layout import Region

__all__ = ["IrqLine", "IrqWire", "MmioDevice"]

IrqLine = Callable[[bool], None]
"""Sets the level of a wire into the interrupt controller. Callable from any thread."""


class MmioDevice(Protocol):
    """Registers at :attr:`region`. The guest chooses offset, size and value: nothing it chooses raises.

    An access that no register answers reads as zero and is ignored when written (RAZ/WI).
    """

    @property
    def region(self) -> Region:
        """Region of the registers."""

    def read(self, offset: int, size: int) -> int:
        """Return ``size`` (1, 2, 4 or 8) bytes at ``offset`` into the region, little-endian."""

    def write(self, offset: int, size: int, value: int) -> None:
        """Store ``size`` bytes at ``offset`` into the region."""


class IrqWire:
    """A device's interrupt wire that several threads change; it passes changes on to ``irq``.

    ``irq`` is called without a lock of the device held, so that it may take the engine's; never by two
    threads at once; and last with the level set last.
    """

    def __init__(self, irq: IrqLine) -> None:
        self._irq = irq
        self._updating = Lock()
        self._passed_on = False
        self.level = False
        """The level wanted. Set it under the device's own lock, then call :meth:`update` without."""

    def update(self) -> None:
        """Bring ``irq`` to the level.

        A thread that finds another one at it leaves the change to that one, which looks again at the end.
        """
        while self._passed_on != self.level and self._updating.acquire(blocking=False):
            try:
                self._passed_on = self.level
                self._irq(self._passed_on)
            finally:
                self._updating.release()
