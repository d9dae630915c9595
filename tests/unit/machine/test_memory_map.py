# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's memory map: what overlaps, and what is gone or read-only for the time being."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pvtime.errors import GuestMemoryError, UsageError
from pvtime.machine.layout import CONSOLE, Region
from pvtime.machine.memory import GuestMemory
from pvtime.machine.memory_map import Access, MemoryMap, Window

BASE = 0x4000_0000
PAGE = Region("page", BASE + 0x1000, 0x1000)


@pytest.fixture
def memories() -> Iterator[MemoryMap]:
    """Return a map with four pages of RAM."""
    memories = MemoryMap([CONSOLE])
    memories.add(GuestMemory(BASE, 0x4000, "RAM"))
    yield memories
    memories.close()


@pytest.mark.parametrize(
    ("base", "other"), [(BASE + 0x3000, "RAM"), (BASE - 0x1000, "RAM"), (CONSOLE.base, "serial port 0")]
)
def test_what_overlaps_is_refused_and_both_are_named(memories: MemoryMap, base: int, other: str) -> None:
    new = GuestMemory(base, 0x2000, "stolen time")
    with pytest.raises(UsageError, match="overlaps") as refusal:
        memories.add(new)
    new.close()
    assert "stolen time" in str(refusal.value)
    assert other in str(refusal.value)


def test_a_window_reads_and_writes_its_region_only(memories: MemoryMap) -> None:
    window = Window(memories, PAGE)
    window.store_u64(PAGE.base, 7)
    assert window.load_u64(PAGE.base) == 7
    assert window.read(PAGE.base, 8) == b"\7" + bytes(7)
    for outside in (PAGE.base - 8, PAGE.end - 4, PAGE.end):
        with pytest.raises(GuestMemoryError, match="not in page"):
            window.store_u64(outside, 1)


def test_memory_that_is_taken_away_comes_back_with_its_contents(memories: MemoryMap) -> None:
    window = Window(memories, PAGE)
    window.write(PAGE.base, b"12345678")
    memories.protect(PAGE, Access.NONE)
    with pytest.raises(GuestMemoryError, match="not mapped"):
        window.read(PAGE.base, 1)
    memories.protect(PAGE, Access.READ)
    assert window.read(PAGE.base, 8) == b"12345678"
    with pytest.raises(GuestMemoryError, match="read-only"):
        window.write(PAGE.base, b"x")
    memories.protect(PAGE, Access.WRITE)
    window.write(PAGE.base, b"x")
    assert window.read(PAGE.base, 2) == b"x2"


def test_an_access_that_only_touches_what_is_gone_fails(memories: MemoryMap) -> None:
    memories.protect(PAGE, Access.NONE)
    memories.find(BASE + 0xFF8, 8, Access.WRITE)
    with pytest.raises(GuestMemoryError, match="not mapped"):
        memories.find(BASE + 0xFFC, 8, Access.READ)
    with pytest.raises(GuestMemoryError, match="no memory"):
        memories.find(BASE + 0x4000, 1, Access.READ)
