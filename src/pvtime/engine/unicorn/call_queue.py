# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls that other threads have the engine's thread make, between two slices."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Final, TypeVar

__all__ = ["CallQueue"]

T = TypeVar("T")

_POLL_INTERVAL_S: Final = 0.05
"""The time after which a caller looks whether the thread has ended without having made its call."""


class CallQueue:
    """Calls for the engine's thread, in order.

    :param preempt_now: brings a busy thread to its queue soon.
    """

    def __init__(self, preempt_now: Callable[[], None]) -> None:
        self._preempt_now = preempt_now
        self._calls: deque[Callable[[], object]] = deque()
        self._submitted = threading.Event()
        self._served = False
        self._server: int | None = None

    def __bool__(self) -> bool:
        """Whether a call is pending."""
        return bool(self._calls)

    @property
    def on_thread(self) -> bool:
        """Whether the caller is on the thread that serves the queue."""
        return threading.get_ident() == self._server

    def open(self) -> None:
        """Note that a thread serves the queue from now on; it calls :meth:`attach` first."""
        self._served = True

    def attach(self) -> None:
        """Note that the calling thread is the one that serves the queue."""
        self._server = threading.get_ident()

    def close(self) -> None:
        """Make the calls that are pending, and note that no thread serves the queue any more."""
        self.run_pending()
        self._served = False

    def submit(self, work: Callable[[], object]) -> None:
        """Run ``work`` on the engine's thread."""
        self._calls.append(work)
        self._submitted.set()
        self._preempt_now()

    def call(self, work: Callable[[], T]) -> T:
        """Run ``work`` on the engine's thread and return its result; if that serves no queue, run it here."""
        if not self._served:
            self.run_pending()
            return work()
        if self.on_thread:
            return work()
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

        self.submit(deliver)
        while self._served and not done.wait(_POLL_INTERVAL_S):
            pass
        if errors:
            raise errors[0]
        return results[0] if results else work()

    def run_pending(self) -> None:
        """Make all pending calls."""
        while self._calls:
            self._calls.popleft()()

    def wait(self, timeout: float | None) -> None:
        """Wait for a call, up to ``timeout`` seconds."""
        self._submitted.clear()
        if not self._calls:
            self._submitted.wait(timeout)
