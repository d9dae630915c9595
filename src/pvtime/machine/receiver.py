# SPDX-License-Identifier: GPL-2.0-or-later
"""The receive side of a serial port: a FIFO that the guest sees, and the host's bytes that wait for it."""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["BACKLOG_SIZE", "FIFO_SIZE", "TRIGGERS", "Receiver"]

FIFO_SIZE: Final = 256
"""Characters. The device tree announces it; a driver that does not ask assumes the 16 of a real chip."""

BACKLOG_SIZE: Final = 64 * 1024
"""Bytes taken from the host before the guest reads any."""

TRIGGERS: Final = (1, 4, 8, 14)
"""Characters in the FIFO that make an interrupt, by bits 7:6 of FCR."""


class Receiver:
    """Bytes from the host to the guest, in order."""

    def __init__(self) -> None:
        self.fifo: deque[int] = deque()
        self.depth = 1
        """Characters that the FIFO holds: one where FIFOs are off."""
        self._backlog: deque[int] = deque()

    @property
    def room(self) -> int:
        """How many bytes :meth:`offer` would take now."""
        return max(0, BACKLOG_SIZE - len(self._backlog))

    def offer(self, data: bytes) -> int:
        """Take bytes from the host and return how many."""
        taken = data[: self.room]
        self._backlog.extend(taken)
        return len(taken)

    def refill(self) -> None:
        """Let the host's bytes into the FIFO as far as it has room."""
        while self._backlog and len(self.fifo) < self.depth:
            self.fifo.append(self._backlog.popleft())

    def push(self, value: int) -> bool:
        """Put a character into the FIFO; return whether there was room."""
        if len(self.fifo) >= self.depth:
            return False
        self.fifo.append(value)
        return True

    def pop(self) -> int:
        """Take the oldest character; 0 where there is none."""
        return self.fifo.popleft() if self.fifo else 0

    def contents(self) -> tuple[bytes, bytes]:
        """Return the FIFO and what the host gave behind it."""
        return bytes(self.fifo), bytes(self._backlog)

    def replace(self, fifo: bytes, backlog: bytes) -> None:
        """Set what :meth:`contents` returns."""
        self.fifo = deque(fifo)
        self._backlog = deque(backlog)
