# SPDX-License-Identifier: GPL-2.0-or-later
"""A thread's clock that the test moves."""

from __future__ import annotations

from pvtime.steal.run_delay import ThreadClock

__all__ = ["FakeClock"]


class FakeClock(ThreadClock):
    """A clock that stands still unless it is moved. Times in ns.

    :param origin: the time at which it begins.
    """

    def __init__(self, origin: int = 0) -> None:
        super().__init__()
        self.origin = self.time = origin
        self.delay = self.off_cpu = self.host_suspended = 0

    def now(self) -> int:
        return self.time

    def read(self) -> tuple[int, int, int]:
        return self.time, self.delay, self.time - self.delay - self.off_cpu

    def suspended(self) -> int:
        return self.host_suspended

    def attach(self) -> None:
        pass

    def move(self, ns: int) -> None:
        """Let time pass."""
        self.time += ns

    def block(self, ns: int) -> None:
        """Keep the thread off its CPU while it does not wait for one."""
        self.time += ns
        self.off_cpu += ns

    def suspend(self, ns: int) -> None:
        """Suspend the host."""
        self.host_suspended += ns

    def steal(self, ns: int) -> None:
        """Have the host keep the thread waiting."""
        self.time += ns
        self.delay += ns
