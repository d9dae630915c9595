# SPDX-License-Identifier: GPL-2.0-or-later
"""The time that vCPUs' threads sleep until the host has a page for them, by looking where they sleep."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pvtime.host.schedstat import ThreadReader

__all__ = ["FaultSampler"]

MOST_SAMPLED: Final = 32
"""Threads of which it is looked at each poll where they sleep: 7 us each."""
FAULTS: Final = re.compile(
    r"handle_userfault|folio_wait_bit\w*|wait_on_page_bit\w*|do_swap_page|hugetlb_fault"
)
"""Functions in which a thread sleeps until the host has a page: userfaultfd (post-copy migration, snapshots),
swap, files."""


@dataclass
class _Sampled:
    """A thread, and what was seen of it."""

    reader: ThreadReader
    at: int = 0
    """Time of the last look."""
    faults_ns: int = 0
    """Time that is due to looks at which it slept in a page fault."""


class FaultSampler:
    """Looks at some threads at a time; each look stands for the time since the one before."""

    def __init__(self) -> None:
        self._threads: dict[int, _Sampled] = {}
        self._next = 0

    def add(self, tid: int, reader: ThreadReader) -> None:
        """Look at one more thread."""
        self._threads[tid] = _Sampled(reader)

    def restart(self, begin: int) -> None:
        """Forget what was until now."""
        for sampled in self._threads.values():
            sampled.at, sampled.faults_ns = begin, 0

    def look(self, clock: Callable[[], int]) -> None:
        """Look at the next threads, of which there are at most :data:`MOST_SAMPLED`."""
        threads = list(self._threads.values())
        for at in range(self._next, self._next + min(MOST_SAMPLED, len(threads))):
            sampled = threads[at % len(threads)]
            function = sampled.reader.sleeps_in()
            now = clock()
            if FAULTS.fullmatch(function):
                sampled.faults_ns += now - sampled.at
            sampled.at = now
        self._next = (self._next + MOST_SAMPLED) % max(1, len(threads))

    def faults_ns(self, tid: int) -> int:
        """Return about how long a thread slept in page faults."""
        return self._threads[tid].faults_ns
