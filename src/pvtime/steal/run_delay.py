# SPDX-License-Identifier: GPL-2.0-or-later
"""run_delay: the time for which a thread, or a vCPU, was ready to run and did not run, in ns."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Final

from pvtime.errors import EngineError

__all__ = ["RunDelay", "Schedstat", "ThreadClock"]

_SUSPEND_NS: Final = 1_000_000
"""The least difference of two clocks that is a suspension of the host: they are not read at once."""


def _open_schedstat(tid: int) -> int:
    """Open a thread's statistics, to be read again and again.

    One pread of an open descriptor takes 1.4 us, opening the file each time 7 us.

    :raises EngineError: the host keeps no scheduler statistics (CONFIG_SCHED_INFO), or the thread is gone.
    """
    path = Path(f"/proc/self/task/{tid}/schedstat")
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise EngineError(
            f"{path}: {error.strerror}: stolen time needs the host's scheduler statistics"
        ) from error


class Schedstat:
    """One thread's scheduler statistics (the kernel's Documentation/scheduler/sched-stats.rst).

    :raises EngineError: the host keeps no scheduler statistics, or the thread is gone.
    """

    def __init__(self, tid: int) -> None:
        self._fd = _open_schedstat(tid)

    def run_delay(self) -> int:
        """Return the time, in ns, for which the thread has waited on a run queue since it started."""
        return int(os.pread(self._fd, 64, 0).split()[1])

    def timeslices(self) -> int:
        """Return the number of times that the thread was put on a CPU."""
        return int(os.pread(self._fd, 64, 0).split()[2])

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._fd)


class ThreadClock:
    """CLOCK_MONOTONIC, and the times of the thread that has attached the clock, in ns."""

    def __init__(self) -> None:
        self._fd = -1
        self._suspended = 0
        self._delay = -1

    def attach(self) -> None:
        """Measure the calling thread from now on.

        :raises EngineError: the host keeps no scheduler statistics.
        """
        self._fd = _open_schedstat(threading.get_native_id())
        self._delay = -1
        # A preemption between its two clocks makes it smaller, and would be a suspension the next time.
        self._suspended = max(self.suspended() for _ in range(3))

    def now(self) -> int:
        """Return the time."""
        return time.monotonic_ns()

    def suspended(self) -> int:
        """Return the time for which the host has been suspended since its boot: other clocks stop then."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()

    def newly_suspended(self) -> int:
        """Return the time for which the host has been suspended since the last call, or :meth:`attach`."""
        new = self.suspended() - self._suspended
        if new < _SUSPEND_NS:
            return 0
        self._suspended += new
        return new

    def read(self) -> tuple[int, int, int]:
        """Return the time, the thread's run_delay and its time on a CPU, all of one moment.

        The thread did not wait between the readings, nor since the last call; else that wait might be in two
        of them, and they are repeated. Its time on a CPU is not schedstat's, which the kernel brings up to
        date at ticks and switches alone.
        """
        while True:
            before = self._delay
            now = time.monotonic_ns()
            on_cpu = time.thread_time_ns()
            self._delay = int(os.pread(self._fd, 64, 0).split()[1])
            if self._delay == before:
                return now, before, on_cpu

    def close(self) -> None:
        """Give the descriptor back; harmless when nothing is attached."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class RunDelay:
    """The run_delay of one vCPU among several that share a thread.

    It is what the vCPU would read in its schedstat if it were a thread: the time it waited for the
    engine while it was runnable, and the time that the engine's thread itself waited for the host while
    it was running this vCPU. Idle time (WFI, off) does not count.
    """

    def __init__(self, total: int = 0) -> None:
        self._total = total
        self._waiting_since: int | None = None

    def wait(self, now: int) -> None:
        """Begin a wait at ``now`` ns: the vCPU became runnable, or was put back behind others."""
        self._waiting_since = now

    @property
    def waiting(self) -> bool:
        """Whether the vCPU is runnable and does not run."""
        return self._waiting_since is not None

    @property
    def waiting_since(self) -> int | None:
        """The time at which its wait began, in ns; None: it does not wait."""
        return self._waiting_since

    def settle(self, now: int) -> int:
        """Stop the wait at ``now``, keep the time accrued, and return the run_delay, in ns."""
        if self._waiting_since is not None:
            self._total += max(0, now - self._waiting_since)
            self._waiting_since = None
        return self._total

    def add(self, ns: int) -> None:
        """Add the time, in ns, for which the thread that executes the vCPU was itself kept from running."""
        self._total += ns

    def read(self, now: int) -> int:
        """Return the run_delay at ``now``, in ns. It never decreases."""
        if self._waiting_since is None:
            return self._total
        # A wake-up may be dated by the timer that caused it, and clocks are read in turn: never negative.
        return self._total + max(0, now - self._waiting_since)
