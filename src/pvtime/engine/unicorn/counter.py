# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's counters, CNTPCT_EL0 and CNTVCT_EL0, which stand still while it is paused or saved.

The emulated CPU has CNTVOFF_EL2 for the one. For the other it has nothing: in a guest that was paused or
restored a read of it traps, and it is behind the host's by as much. A counter of another
frequency than the emulated CPU's own traps from the start (:mod:`pvtime.engine.unicorn.counter_trap`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from pvtime.machine.timer import NATIVE, CounterRate

__all__ = ["GuestCounter"]

_NEVER: Final = (1 << 64) - 1


class GuestCounter:
    """The host's counter and the guest's. Both in ticks of the host's.

    :param now: CLOCK_MONOTONIC, in ns.
    :param rate: the host's frequency.
    """

    def __init__(self, now: Callable[[], int] = time.monotonic_ns, rate: CounterRate = NATIVE) -> None:
        self._now = now
        self.rate = rate
        self.offset = 0
        """By how much the guest's is behind; below 0: ahead."""

    def go_on(self, ticks: int, now: int) -> None:
        """Make it ``ticks`` where the host's is ``now``."""
        self.offset = now - ticks

    def stop(self, ticks: int) -> None:
        """Take back ``ticks`` for which it should have stood still."""
        self.offset += ticks

    def host(self) -> int:
        """Return the host's, now."""
        return self.rate.ticks(self._now())

    def read(self) -> int:
        """Return the guest's, now."""
        return self.at(self.host())

    def at(self, now: int) -> int:
        """Return the guest's, where the host's is ``now``."""
        return now - self.offset & _NEVER

    def to_host(self, compare: int) -> int:
        """Return a compare value of the guest's as one of the host's.

        Those at either end of the range stay there: never is not to become soon.
        """
        return _clamp(compare, self.offset)

    def to_guest(self, compare: int) -> int:
        """Return a compare value of the host's as one of the guest's."""
        return _clamp(compare, -self.offset)


def _clamp(compare: int, offset: int) -> int:
    return compare if compare in (0, _NEVER) else min(max(compare + offset, 0), _NEVER)
