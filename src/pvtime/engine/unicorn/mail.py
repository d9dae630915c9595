# SPDX-License-Identifier: GPL-2.0-or-later
"""What other threads want done on the engine's thread, between two slices."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TypeVar

__all__ = ["Mail"]

T = TypeVar("T")


class Mail:
    """Work for the engine's thread, in order.

    :param thread: reads the mail.
    :param hurry: brings it there soon, where it is busy.
    """

    def __init__(self, thread: threading.Thread, hurry: Callable[[], None]) -> None:
        self._thread = thread
        self._hurry = hurry
        self._work: deque[Callable[[], object]] = deque()
        self._came = threading.Event()

    def __bool__(self) -> bool:
        """Whether something waits."""
        return bool(self._work)

    def post(self, work: Callable[[], object]) -> None:
        """Have something done."""
        self._work.append(work)
        self._came.set()
        self._hurry()

    def call(self, work: Callable[[], T]) -> T:
        """Have something done, by nobody's thread where the reader has ended; return its result."""
        done = threading.Event()
        results: list[T] = []
        errors: list[Exception] = []

        def deliver() -> None:
            try:
                results.append(work())
            except Exception as error:
                errors.append(error)
            finally:
                done.set()

        self.post(deliver)
        while self._thread.is_alive() and not done.wait(0.05):
            pass  # the thread may end without having looked at its mail
        if errors:
            raise errors[0]
        return results[0] if results else work()

    def read(self) -> None:
        """Do all that waits."""
        while self._work:
            self._work.popleft()()

    def wait(self, timeout: float | None) -> None:
        """Wait for something, up to ``timeout`` seconds."""
        self._came.clear()
        if not self._work:
            self._came.wait(timeout)
