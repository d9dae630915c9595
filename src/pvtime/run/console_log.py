# SPDX-License-Identifier: GPL-2.0-or-later
"""The last of a guest's console output, for readers that come and go."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Final

__all__ = ["CONSOLE_LOG_SIZE", "ConsoleLog"]

CONSOLE_LOG_SIZE: Final = 1 << 20
"""Bytes of output that are kept: a reader that is slower loses what is older."""


class ConsoleLog:
    """Keeps the end of an output. A position counts the bytes since the run's start. For any thread.

    :param eager: called with whether somebody waits for every byte.
    """

    def __init__(self, eager: Callable[[bool], object], size: int = CONSOLE_LOG_SIZE) -> None:
        self._eager = eager
        self._size = size
        self._kept = bytearray()
        self._begin = 0
        self._closed = False
        self._changed = threading.Condition()
        self._wakes: list[Callable[[], object]] = []

    @property
    def end(self) -> int:
        """The position behind all output."""
        return self._begin + len(self._kept)

    @property
    def closed(self) -> bool:
        """Whether no more output comes."""
        return self._closed

    def feed(self, data: bytes) -> None:
        """Add output."""
        with self._changed:
            self._kept += data
            excess = len(self._kept) - self._size
            if excess > 0:
                # In large pieces: to move a megabyte for every byte takes time.
                excess = max(excess, min(self._size // 4, len(self._kept)))
                del self._kept[:excess]
                self._begin += excess
            self._notify()

    def close(self) -> None:
        """Note that no more output comes."""
        with self._changed:
            self._closed = True
            self._notify()

    def read(self, position: int) -> tuple[bytes, int]:
        """Return the output from ``position`` on, as far as it is kept, and the position behind it."""
        with self._changed:
            return bytes(self._kept[max(0, position - self._begin) :]), self.end

    def wait(self, position: int, timeout: float | None) -> bool:
        """Wait up to ``timeout`` seconds (None: for ever) for output behind ``position``, or the end.

        :return: whether there is output.
        """
        with self._attended(), self._changed:
            self._changed.wait_for(lambda: self.end > position or self._closed, timeout)
            return self.end > position

    @contextlib.contextmanager
    def attached(self, wake: Callable[[], object]) -> Iterator[None]:
        """Call ``wake`` after each output and at its end, from any thread, while in a ``with`` block."""
        with self._attended(wake):
            yield

    @contextlib.contextmanager
    def _attended(self, wake: Callable[[], object] = lambda: None) -> Iterator[None]:
        with self._changed:
            self._wakes.append(wake)
            self._eager(True)
        try:
            yield
        finally:
            with self._changed:
                self._wakes.remove(wake)
                self._eager(bool(self._wakes))

    def _notify(self) -> None:
        self._changed.notify_all()
        for wake in self._wakes:
            wake()
