# SPDX-License-Identifier: GPL-2.0-or-later
"""The memory that a process has pages for, beside a reading of /proc/self/pagemap entry by entry."""

from __future__ import annotations

import mmap
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pvtime.machine.memory import GuestMemory
from pvtime.machine.pages import CHUNK, touched

PAGE = mmap.PAGESIZE
SIZE = 5 * CHUNK + 3 * PAGE
"""Its last chunk is a short one."""

pages = st.integers(0, SIZE // PAGE - 1)
runs = st.tuples(pages, st.sampled_from([1, 2, CHUNK // PAGE, 3 * CHUNK // PAGE]))


def in_use(memory: GuestMemory) -> set[int]:
    """Return the pages that are present or swapped out (bits 63 and 62)."""
    with Path("/proc/self/pagemap").open("rb") as pagemap:
        pagemap.seek(memory.address // PAGE * 8)
        entries = memoryview(pagemap.read(SIZE // PAGE * 8)).cast("Q")
    return {page for page, entry in enumerate(entries) if entry >> 62}


@given(st.lists(runs, max_size=4))
def test_exactly_the_pages_in_use_are_touched_in_order_and_by_chunk(written: list[tuple[int, int]]) -> None:
    memory = GuestMemory(0, SIZE, "guest")
    try:
        for first, count in written:
            for page in range(first, min(first + count, SIZE // PAGE)):
                memory.write(page * PAGE, b"x")
        found = list(touched(memory))
        expected = in_use(memory)
    finally:
        memory.close()
    covered = [page for offset, length in found for page in range(offset // PAGE, (offset + length) // PAGE)]
    assert covered == sorted(expected)
    assert all(offset // CHUNK == (offset + length - 1) // CHUNK for offset, length in found)
