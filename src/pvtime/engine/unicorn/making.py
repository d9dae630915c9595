# SPDX-License-Identifier: GPL-2.0-or-later
"""Make an emulated CPU while no other one of this process executes.

The library chooses its clock when a CPU is made (init_get_clock): for a moment that is CLOCK_REALTIME, for
all CPUs of the process. A guest that read its counter just then found itself decades later, and back a moment
after: seen in a machine that was migrated within the process, and in a guest that does nothing but read, up
to 114 times while 300 CPUs were made.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final
from weakref import WeakSet

__all__ = ["Executor", "alone"]

_REPEAT_S: Final = 0.000_2
"""A kick is lost where the run it is for has not quite begun."""

_making = threading.Lock()
_made = threading.Event()
_made.set()
_executors: WeakSet[Executor] = WeakSet()


class Executor:
    """One CPU's part: :meth:`begin` before each run, and :meth:`end` after it. Make it within :func:`alone`.

    :param kick: ends a run.
    """

    def __init__(self, kick: Callable[[], None]) -> None:
        self.kick = kick
        self.executes = False
        _executors.add(self)

    def begin(self) -> None:
        """Note that the CPU is about to execute; wait while another one is made."""
        # The interpreter's lock orders the store and the load, here and in alone().
        self.executes = True
        while not _made.is_set():
            self.executes = False
            _made.wait()
            self.executes = True

    def end(self) -> None:
        """Note that the CPU does not execute any more."""
        self.executes = False


@contextmanager
def alone() -> Iterator[None]:
    """Let no CPU execute meanwhile."""
    with _making:
        _made.clear()
        try:
            for executor in list(_executors):
                while executor.executes:
                    executor.kick()
                    time.sleep(_REPEAT_S)
            yield
        finally:
            _made.set()
