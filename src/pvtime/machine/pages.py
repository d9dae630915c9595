# SPDX-License-Identifier: GPL-2.0-or-later
"""Extents of a guest's memory that are not zero: the rest is neither saved, nor hashed, nor sent.

Memory is compared in blocks of 4 KiB, whatever the host's page size, so that a saved machine is the same on
every host. Neighbouring blocks that are not zero form an extent; no extent crosses a multiple of 1 MiB.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Final

from pvtime.abi.layout import Field, Register
from pvtime.machine.memory import GuestMemory

__all__ = ["BLOCK", "CHUNK", "Extent", "extents", "nonzero", "touched"]

BLOCK: Final = 4096
"""Bytes that are zero or not."""
CHUNK: Final = 1 << 20
"""Bytes; no extent crosses a multiple of it."""

Extent = tuple[int, int]
"""Offset into the region and length, in bytes; multiples of :data:`BLOCK`."""

_ZERO: Final = bytes(BLOCK)


class PagemapEntry(Register):
    """Entry of /proc/PID/pagemap, 64 bits a page: the kernel's Documentation/admin-guide/mm/pagemap.rst."""

    present = Field(63)
    swapped = Field(62)


_ENTRY: Final = 8
_TOUCHED: Final = int(PagemapEntry.of(present=1, swapped=1))


def _of_chunk(entry: int) -> int:
    """Return the number that a chunk's entries make as one, where each is ``entry``."""
    return int.from_bytes(entry.to_bytes(_ENTRY, sys.byteorder) * (CHUNK // mmap.PAGESIZE))


_ANY_TOUCHED: Final = _of_chunk(_TOUCHED)
_ALL_PRESENT: Final = _of_chunk(int(PagemapEntry.of(present=1)))


def extents(memory: GuestMemory) -> list[Extent]:
    """Return the extents of a region, in order. The guest must not run meanwhile."""
    with memory.view(memory.base, memory.size) as view:
        return [
            extent
            for offset, length in touched(memory)
            for extent in nonzero(view[offset : offset + length], offset)
        ]


def nonzero(data: memoryview, offset: int) -> Iterator[Extent]:
    """Yield the extents of ``data``, which is at ``offset`` of a region and within one chunk.

    Measured (CPython 3.11): 0.35 us a block. Comparing the view itself goes byte by byte: 3.5 us.
    """
    blocks = range(0, len(data), BLOCK)
    return _runs((bytes(data[start : start + BLOCK]) != _ZERO for start in blocks), BLOCK, offset)


def touched(memory: GuestMemory) -> Iterator[Extent]:
    """Yield the parts of a region for which the process has pages; the rest of it is zero.

    Reading the rest would only create page tables for it. Without /proc/self/pagemap, all of the region is
    yielded. Guest memory is private and anonymous: a page is present, swapped out, or was never written.

    Most chunks were touched whole or not at all, which is seen at once where their entries are one number:
    1.1 ms instead of 9.8 ms for a guest of 256 MiB of which 48 are in use (CPython 3.11).
    """
    page = mmap.PAGESIZE
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            pagemap.seek(memory.address // page * _ENTRY)
            entries = memoryview(pagemap.read(memory.size // page * _ENTRY))
    except OSError:
        entries = memoryview(b"")
    is_known = len(entries) == memory.size // page * _ENTRY
    for offset in range(0, memory.size, CHUNK):
        end = min(offset + CHUNK, memory.size)
        chunk = entries[offset // page * _ENTRY : end // page * _ENTRY]
        number = int.from_bytes(chunk)
        if not is_known or number & _ALL_PRESENT == _ALL_PRESENT:
            yield offset, end - offset
        elif number & _ANY_TOUCHED:
            yield from _runs((bool(entry & _TOUCHED) for entry in chunk.cast("Q")), page, offset)


def _runs(flags: Iterable[bool], unit: int, offset: int) -> Iterator[Extent]:
    """Yield the runs of set ``flags``, each of which is for ``unit`` bytes, the first at ``offset``."""
    for flag, group in groupby(flags):
        length = unit * sum(1 for _ in group)
        if flag:
            yield offset, length
        offset += length
