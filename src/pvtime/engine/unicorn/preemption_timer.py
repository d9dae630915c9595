# SPDX-License-Identifier: GPL-2.0-or-later
"""The thread that ends a run of the emulated CPU when its time has come."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

__all__ = ["PreemptionTimer"]

_REPEAT_S: Final = 0.000_2
"""A kick is lost where the run it is for has not quite begun, so it is repeated until the run has ended."""


class PreemptionTimer:
    """Calls ``kick`` from a thread of its own at the deadline that is armed, until disarmed.

    :param now: CLOCK_MONOTONIC, in ns.
    """

    def __init__(self, kick: Callable[[], None], now: Callable[[], int] = time.monotonic_ns) -> None:
        self._kick = kick
        self._now = now
        self._deadline: int | None = None
        self._preempt = False
        self._wakes_at = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="pvtime-preempt", daemon=True)

    @property
    def deadline(self) -> int | None:
        """The time of the next kick, in ns of CLOCK_MONOTONIC; None: there is none."""
        return self._deadline

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def arm(self, deadline: int | None) -> None:
        """Kick at ``deadline``, in ns of CLOCK_MONOTONIC; None: not at all."""
        self._deadline = deadline
        # The thread is woken only where it would be late: 1 us, against 15 us with a wake-up.
        if deadline is not None and deadline < self._wakes_at:
            with self._changed:
                self._changed.notify()

    def preempt_now(self) -> None:
        """Kick now, whatever the deadline."""
        self._preempt = True
        with self._changed:
            self._changed.notify()

    def disarm(self) -> None:
        """Kick no more: the run has ended."""
        self._deadline = None
        self._preempt = False

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        with self._changed:
            while not self._closed:
                # Published before the deadline is read: whoever sets an earlier one after that sees it.
                self._wakes_at = 1 << 63
                deadline = self._deadline
                now = self._now()
                if self._preempt or (deadline is not None and now >= deadline):
                    self._kick()
                    self._wakes_at = 0
                    self._changed.wait(_REPEAT_S)
                elif deadline is None:
                    self._changed.wait()
                else:
                    self._wakes_at = deadline
                    self._changed.wait((deadline - now) / 1e9)
