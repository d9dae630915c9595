# SPDX-License-Identifier: GPL-2.0-or-later
"""An interrupt wire that several threads move."""

from __future__ import annotations

from threading import Lock

from pvtime.machine.device import IrqLine

__all__ = ["Wire"]


class Wire:
    """Passes a level on to ``irq`` when it changes.

    ``irq`` is called without a lock of the device held, so that it may take the engine's; never by two
    threads at once; and last with the level set last.
    """

    def __init__(self, irq: IrqLine) -> None:
        self._irq = irq
        self._telling = Lock()
        self._told = False
        self.level = False
        """What the wire is to be. Set it under the device's own lock, then call :meth:`tell` without."""

    def tell(self) -> None:
        """Bring ``irq`` to the level.

        A thread that finds another one telling leaves it to that one, which looks again before it goes.
        """
        while self._told != self.level and self._telling.acquire(blocking=False):
            try:
                self._told = self.level
                self._irq(self._told)
            finally:
                self._telling.release()
