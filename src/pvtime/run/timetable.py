# SPDX-License-Identifier: GPL-2.0-or-later
"""When a run is to end. All times are those of :func:`time.monotonic`, in s."""

from __future__ import annotations

import time
from typing import Final

from pvtime.run.plan import Plan

__all__ = ["BOOT_LIMIT", "Timetable"]

BOOT_LIMIT: Final = 60.0
"""Seconds until a stock userland that has not reported no longer holds up ``--duration``."""


class Timetable:
    """What is due in a run by ``plan`` that starts now."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.start = time.monotonic()
        self.ready_at = self.start if plan.resumed and plan.tell_agent is not None else None
        """When userland reported; None until it has."""
        self.saved = plan.save is None
        """Nothing is to be saved, or it was begun."""
        self.give_up_at: float | None = None
        """When a guest that was asked to power off is stopped."""

    @property
    def boot_seconds(self) -> float | None:
        """From the start to userland; None where it has not reported, or had done so before."""
        return None if self.ready_at is None or self._plan.resumed else self.ready_at - self.start

    def elapsed(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self.start

    def grant(self, grace: float) -> None:
        """Give the guest ``grace`` seconds from now on; what it was given before may only get shorter."""
        until = time.monotonic() + grace
        self.give_up_at = until if self.give_up_at is None else min(self.give_up_at, until)

    def end(self) -> float | None:
        """Return when the host has to do something about the end; None where it need not."""
        return self.duration_ends_at() if self.give_up_at is None else self.give_up_at

    def save_at(self) -> float | None:
        """Return when the machine is to be saved; None: not (again), or it is not known yet."""
        if self._plan.save is None or self.saved:
            return None
        begin = self.start if self._plan.tell_agent is None else self.ready_at
        return None if begin is None else begin + self._plan.save[0]

    def note_saved(self) -> None:
        """It was begun."""
        self.saved = True

    def duration_ends_at(self) -> float | None:
        """Return when ``--duration`` is over; None where there is no such time."""
        if self._plan.duration is None:
            return None
        if self._plan.tell_agent is None:
            return self.start + self._plan.duration
        if self.ready_at is None:
            return self.start + BOOT_LIMIT + self._plan.duration
        return self.ready_at + self._plan.duration
