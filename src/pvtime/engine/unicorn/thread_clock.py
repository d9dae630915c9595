# SPDX-License-Identifier: GPL-2.0-or-later
"""What time it is, and how long the thread that asks has waited for a CPU until then."""

from __future__ import annotations

import threading
import time

from pvtime.steal.run_delay import Schedstat

__all__ = ["ThreadClock"]


class ThreadClock:
    """The clocks of the thread that makes it.

    :raises EngineError: the host keeps no scheduler statistics.
    """

    def __init__(self) -> None:
        self._schedstat = Schedstat(threading.get_native_id())

    def run_delay(self) -> int:
        """Return the time, in ns, that the thread has waited on a run queue since it started."""
        return self._schedstat.run_delay()

    def read(self) -> tuple[int, int]:
        """Return the time and the thread's run_delay, both in ns and of one moment: the thread did not wait
        between the two readings, or that wait would be in both.
        """
        delay = self._schedstat.run_delay()
        while True:
            now = time.monotonic_ns()
            again = self._schedstat.run_delay()
            if again == delay:
                return now, delay
            delay = again

    def close(self) -> None:
        """Give the host's resources back."""
        self._schedstat.close()
