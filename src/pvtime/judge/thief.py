# SPDX-License-Identifier: GPL-2.0-or-later
"""Steal from the vCPUs of a VMM: its vCPU threads share one CPU with a process that computes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence

from pvtime.lab import die_with_parent

__all__ = ["Thief", "patient"]

_HOG = "while True: pass"


class Thief:
    """A process that computes, on the CPU that its victims are moved to, for the time of a ``with`` block."""

    def __enter__(self) -> Thief:
        self._everywhere = os.sched_getaffinity(0)
        self._one = {max(self._everywhere)}
        python = (sys.executable, "-I", "-S")
        self._hog = subprocess.Popen(
            [*python, die_with_parent.__file__, str(os.getpid()), *python, "-c", _HOG]
        )
        _move(self._hog.pid, self._one)
        self._moved: set[int] = set()
        return self

    def __exit__(self, *_: object) -> None:
        self._hog.kill()
        self._hog.wait()
        for tid in self._moved:
            _move(tid, self._everywhere)

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """Compute nothing for the time of a ``with`` block: there is nobody to steal from."""
        self._hog.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._hog.send_signal(signal.SIGCONT)

    def take(self, tids: Sequence[int]) -> None:
        """Steal from these threads too.

        A thread that has ended, or that this user may not move, is left where it is.
        """
        for tid in tids:
            _move(tid, self._one)
            self._moved.add(tid)


@contextlib.contextmanager
def patient(tids: Sequence[int]) -> Iterator[None]:
    """Have threads that wake up wait for those that run (SCHED_BATCH), for the time of a ``with`` block."""
    for tid in tids:
        _schedule(tid, os.SCHED_BATCH)
    try:
        yield
    finally:
        for tid in tids:
            _schedule(tid, os.SCHED_OTHER)


def _move(tid: int, cpus: set[int]) -> None:
    with contextlib.suppress(OSError):
        os.sched_setaffinity(tid, cpus)


def _schedule(tid: int, policy: int) -> None:
    with contextlib.suppress(OSError):
        os.sched_setscheduler(tid, policy, os.sched_param(0))
