# SPDX-License-Identifier: GPL-2.0-or-later
"""A vCPU that is kept off the CPU on purpose: from when to when, and which part of its wait that was."""

from __future__ import annotations

from collections.abc import Callable

from pvtime.inject.schedule import PendingSteal

__all__ = ["Hold"]


class Hold:
    """Keeps one vCPU off the CPU for its pending steal. Times in ns of the host's clock.

    A quota is injected while the vCPU waits for the CPU: from when it is due where the vCPU waits already,
    else from when the vCPU wakes, or leaves the CPU. Where it also had to wait for others, that is the same
    time and counts once: as injected up to the quota, as natural beyond.

    :param inject: called with each part of the wait that was on purpose, in ns.
    """

    def __init__(self, pending: PendingSteal, inject: Callable[[int], object]) -> None:
        self._pending = pending
        self._inject = inject
        self._origin = self._begin = self._release_at = 0

    def start(self, now: int) -> None:
        """Begin the schedule's time."""
        self._origin = now

    @property
    def release_at(self) -> int:
        """The end of the hold, where the vCPU is held."""
        return self._release_at

    def replace(self, pending: PendingSteal, now: int, waiting_since: int | None) -> None:
        """Follow another schedule, whose time begins at ``now``.

        Steal that was due until then is injected until then; the rest of a hold is dropped.

        :param waiting_since: see :meth:`settle_until`.
        """
        self.settle_until(now, waiting_since)
        self.reset()
        self._pending = pending
        self._origin = now

    def next_due(self) -> int | None:
        """Return since when, or from when on, a quota is due; None: never again."""
        due = self._pending.next_due()
        return None if due is None else due + self._origin

    def woke(self, now: int) -> None:
        """Note that the vCPU had no use for a CPU until ``now``."""
        self._pending.expire(now - self._origin)

    def settle_until(self, now: int, waiting_since: int | None) -> bool:
        """Inject what is stolen until ``now``; return whether the vCPU must still be held.

        :param waiting_since: since when it is ready to run and does not run; None: it runs, or is idle.
        """
        if waiting_since is None:
            return False
        while True:
            self._settle(now)
            if now < self._release_at:
                return True
            due = self.next_due()
            if due is None or (begin := max(due, waiting_since, self._release_at)) > now:
                return False
            self._begin = begin
            self._release_at = begin + self._pending.claim(begin - self._origin)

    def resume(self, paused_ns: int) -> None:
        """Leave a pause out, before which :meth:`settle_until` was called."""
        self._origin += paused_ns
        self._begin += paused_ns
        self._release_at += paused_ns

    def reset(self) -> None:
        """End the hold; the schedule continues."""
        self._begin = self._release_at = 0

    def _settle(self, now: int) -> None:
        reached = min(now, self._release_at)
        if reached > self._begin:
            self._inject(reached - self._begin)
            self._begin = reached
