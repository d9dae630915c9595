# SPDX-License-Identifier: GPL-2.0-or-later
"""A vCPU that is kept off the CPU on purpose: from when to when, and which part of its wait that was."""

from __future__ import annotations

from collections.abc import Callable

from pvtime.inject.schedule import PendingSteal

__all__ = ["Hold"]


class Hold:
    """Keeps one vCPU off the CPU for what it owes. Times in ns of the host's clock.

    A debt is paid while the vCPU waits for the CPU: from its begin on where it waits already, else from
    when the vCPU wakes, or leaves the CPU. Where it also had to wait for others, that is the same time and
    counts once: as injected up to what is owed, as natural beyond.

    :param inject: told each part of the wait that was on purpose, in ns.
    """

    def __init__(self, debts: PendingSteal, inject: Callable[[int], object]) -> None:
        self._debts = debts
        self._inject = inject
        self._origin = self._begin = self._until = 0

    def start(self, now: int) -> None:
        """The schedule's time begins."""
        self._origin = now

    @property
    def until(self) -> int:
        """The end of the hold, if there is one."""
        return self._until

    def due(self) -> int | None:
        """Return since when, or from when on, the vCPU owes; None: never again."""
        due = self._debts.due()
        return None if due is None else due + self._origin

    def wake(self, now: int) -> None:
        """The vCPU had no use for a CPU until ``now``."""
        self._debts.lapse(now - self._origin)

    def advance(self, waiting_since: int | None, now: int) -> bool:
        """Tell :attr:`inject` what was stolen until ``now``; return whether the vCPU is to be held on.

        :param waiting_since: since when it is ready to run and does not run; None: it runs, or is idle.
        """
        if waiting_since is None:
            return False
        while True:
            self._settle(now)
            if now < self._until:
                return True
            due = self.due()
            if due is None or (begin := max(due, waiting_since, self._until)) > now:
                return False
            self._begin = begin
            self._until = begin + self._debts.take(begin - self._origin)

    def resume(self, paused_ns: int) -> None:
        """The machine goes on after a pause, before which :meth:`advance` was called: it did not count."""
        self._origin += paused_ns
        self._begin += paused_ns
        self._until += paused_ns

    def reset(self) -> None:
        """The machine starts anew: nobody is held; the schedule goes on."""
        self._begin = self._until = 0

    def _settle(self, now: int) -> None:
        reached = min(now, self._until)
        if reached > self._begin:
            self._inject(reached - self._begin)
            self._begin = reached
