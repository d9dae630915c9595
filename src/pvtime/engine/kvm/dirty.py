# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's changes to its memory, across resets, from the kernel's dirty logs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from mmap import PAGESIZE

from pvtime.machine.dirty import DirtyTracker
from pvtime.machine.memory import GuestMemory
from pvtime.machine.pages import CHUNK, Extent, extents

__all__ = ["KvmDirtyTracker"]


class KvmDirtyTracker(DirtyTracker):
    """A tracker of the guest's writes, and of those of the kernel for it.

    :param written: returns IPA and length of the whole pages that were written since the last call.
    :param close: ends the logging.
    """

    def __init__(
        self,
        memories: Sequence[GuestMemory],
        written: Callable[[], list[Extent]],
        close: Callable[[], object],
    ) -> None:
        self._yielded = {memory: bytearray(memory.size // PAGESIZE) for memory in memories}
        """Whether each page has ever been yielded."""
        self._written = written
        self._close = close
        self._restarted = True

    def restart(self) -> None:
        """Note a reset: all memory is cleared and loaded, which is in no log."""
        self._restarted = True

    def changed(self) -> Iterator[tuple[int, memoryview]]:
        """Yield copies, as the guest may run meanwhile."""
        restarted, self._restarted = self._restarted, False
        written = self._written()  # before any of it is read: what is written later is in the next log
        for memory, yielded in self._yielded.items():
            if restarted:  # pages that were not zero may be so now
                pages = yielded
                _mark(pages, extents(memory))
            else:
                changed = [
                    (ipa - memory.base, size) for ipa, size in written if memory.base <= ipa < memory.end
                ]
                pages = bytearray(len(yielded))
                _mark(pages, changed)
                _mark(yielded, changed)
            for offset, length in _runs(pages):
                ipa = memory.base + offset
                yield ipa, memoryview(memory.read(ipa, length))

    def close(self) -> None:
        self._close()


def _mark(pages: bytearray, marked: Iterable[Extent]) -> None:
    for offset, length in marked:
        first, end = offset // PAGESIZE, -(-(offset + length) // PAGESIZE)
        pages[first:end] = b"\1" * (end - first)


def _runs(pages: bytearray) -> Iterator[Extent]:
    """Yield the extents of marked pages, each a chunk at most."""
    for run in re.finditer(rb"\x01{1,%d}" % (CHUNK // PAGESIZE), pages):
        yield run.start() * PAGESIZE, len(run[0]) * PAGESIZE
