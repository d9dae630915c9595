# SPDX-License-Identifier: GPL-2.0-or-later
"""Steal from the vCPUs of a VMM: its vCPU threads share one CPU with a process that computes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

from pvtime.lab import die_with_parent

__all__ = ["stealing"]

_HOG = "while True: pass"


@contextlib.contextmanager
def stealing(tids: Sequence[int]) -> Iterator[None]:
    """Have the threads share a CPU with a hog for the time of a ``with`` block, and undo that.

    A thread that has ended, or that this user may not move, is left where it is.
    """
    if not tids:
        yield
        return
    everywhere = os.sched_getaffinity(0)
    one = {max(everywhere)}
    with contextlib.ExitStack() as undo:
        python = (sys.executable, "-I", "-S")
        hog = subprocess.Popen([*python, die_with_parent.__file__, str(os.getpid()), *python, "-c", _HOG])
        undo.callback(hog.wait)
        undo.callback(hog.kill)
        for tid in (hog.pid, *tids):
            _move(tid, one)
        for tid in tids:
            undo.callback(_move, tid, everywhere)
        yield


def _move(tid: int, cpus: set[int]) -> None:
    with contextlib.suppress(OSError):
        os.sched_setaffinity(tid, cpus)
