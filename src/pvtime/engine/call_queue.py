# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls that any thread submits and one thread runs, in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

__all__ = ["CallQueue"]

PREEMPT_INTERVAL_S: Final = 0.05
"""Time between two preemptions of a thread that somebody waits for."""

T = TypeVar("T")


class CallQueue:
    """Calls for one thread, which runs them in :meth:`run_pending`.

    Nobody waits for a thread that is not alive: the calls that it leaves are withdrawn.

    :param preempt: bring the thread to :meth:`run_pending` soon, from wherever it is; return whether it is
        alive. Called from any thread, and repeatedly.
    """

    def __init__(self, preempt: Callable[[], bool]) -> None:
        self._preempt = preempt
        self._pending: deque[Callable[[], None]] = deque()
        self._submitted = threading.Event()

    def __bool__(self) -> bool:
        """Whether a call is pending."""
        return bool(self._pending)

    def submit(self, work: Callable[[], object]) -> Callable[[], bool]:
        """Have the thread run ``work``, whose exceptions are the thread's own.

        :return: a function that waits for the end of the call and returns whether the thread has run it.
        """
        done = threading.Event()

        def run() -> None:
            try:
                work()
            finally:
                done.set()

        self._pending.append(run)
        self._submitted.set()
        alive = self._preempt()

        def wait() -> bool:
            nonlocal alive
            while alive or not self._withdraw(run):
                if done.wait(PREEMPT_INTERVAL_S):
                    return True
                alive = self._preempt()
            return False

        return wait

    def call(self, work: Callable[[], T]) -> T:
        """Run ``work`` on the thread and return its result.

        If the thread is not alive, run it here, after the calls that are pending.

        Exceptions of ``work`` are the caller's.
        """
        results: list[T] = []
        errors: list[Exception] = []

        def run() -> None:
            try:
                results.append(work())
            except Exception as error:
                errors.append(error)

        if not self.submit(run)():
            self.run_pending()
            return work()
        if errors:
            raise errors[0]
        return results[0]

    def run_pending(self) -> None:
        """Run the pending calls."""
        while True:
            try:
                run = self._pending.popleft()
            except IndexError:
                return
            run()

    def wait(self, timeout: float | None) -> None:
        """Wait up to ``timeout`` seconds (None: for ever) for a pending call, on the thread."""
        self._submitted.clear()  # first: a call that is submitted from here on ends the wait
        if not self._pending:
            self._submitted.wait(timeout)

    def _withdraw(self, run: Callable[[], None]) -> bool:
        """Return whether the call was still pending."""
        with suppress(ValueError):
            self._pending.remove(run)
            return True
        return False
