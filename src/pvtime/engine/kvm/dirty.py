# SPDX-License-Identifier: GPL-2.0-or-later
"""Which memory of a guest changes, over all its lives, from the kernel's dirty logs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from mmap import PAGESIZE

from pvtime.machine.dirty import DirtyTracker
from pvtime.machine.memory import GuestMemory
from pvtime.machine.pages import CHUNK, Extent, extents

__all__ = ["DirtyLog"]


class DirtyLog(DirtyTracker):
    """A guest's writes, and those of the kernel for it.

    :param written: returns IPA and length of what was written since the last call, in whole pages.
    :param close: ends the logging.
    """

    def __init__(
        self,
        memories: Sequence[GuestMemory],
        written: Callable[[], list[Extent]],
        close: Callable[[], object],
    ) -> None:
        self._yielded = {memory: bytearray(memory.size // PAGESIZE) for memory in memories}
        """Of each page, whether it ever was."""
        self._written = written
        self._close = close
        self._anew = True

    def start_anew(self) -> None:
        """The guest was reset: all its memory has been cleared and loaded, which no log tells."""
        self._anew = True

    def changed(self) -> Iterator[tuple[int, memoryview]]:
        """See :meth:`DirtyTracker.changed`. Copies, as the guest may run."""
        anew, self._anew = self._anew, False
        written = self._written()  # before any of it is read: what is written later is in the next log
        for memory, yielded in self._yielded.items():
            if anew:  # what was not zero before may be so now
                found = yielded
                _mark(found, extents(memory))
            else:
                here = [(ipa - memory.base, size) for ipa, size in written if memory.base <= ipa < memory.end]
                found = bytearray(len(yielded))
                _mark(found, here)
                _mark(yielded, here)
            for at, length in _runs(found):
                yield memory.base + at, memoryview(memory.read(memory.base + at, length))

    def close(self) -> None:
        """See :meth:`DirtyTracker.close`."""
        self._close()


def _mark(pages: bytearray, found: Iterable[Extent]) -> None:
    for at, length in found:
        first, end = at // PAGESIZE, -(-(at + length) // PAGESIZE)
        pages[first:end] = b"\1" * (end - first)


def _runs(pages: bytearray) -> Iterator[Extent]:
    """Yield where pages are marked, of neighbours no more than a chunk at once."""
    for run in re.finditer(rb"\x01{1,%d}" % (CHUNK // PAGESIZE), pages):
        yield run.start() * PAGESIZE, len(run[0]) * PAGESIZE
