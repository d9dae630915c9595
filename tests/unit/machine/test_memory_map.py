# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's memory map: what overlaps, and what is gone or read-only for the time being."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pvtime.errors import GuestMemoryError, UsageError
from pvtime.machine.layout import CONSOLE, Region
from pvtime.machine.memory_map import Access, MemoryMap

BASE = 0x4000_0000
PAGE = Region("page", BASE + 0x1000, 0x1000)


@pytest.fixture
def memories() -> Iterator[MemoryMap]:
    """Return a map with four pages of RAM."""
    memories = MemoryMap([CONSOLE])
    memories.allocate(BASE, 0x4000, "RAM")
    yield memories
    memories.close()


@pytest.mark.parametrize(
    ("base", "other"), [(BASE + 0x3000, "RAM"), (BASE - 0x1000, "RAM"), (CONSOLE.base, "serial port 0")]
)
def test_what_overlaps_is_refused_and_both_are_named(memories: MemoryMap, base: int, other: str) -> None:
    with pytest.raises(UsageError, match="overlaps") as refusal:
        memories.allocate(base, 0x2000, "stolen time")
    assert "stolen time" in str(refusal.value)
    assert other in str(refusal.value)


def test_bound_bytes_are_the_memory_itself_and_whole_words_of_it(memories: MemoryMap) -> None:
    bound = memories.bind(PAGE.base, 64)
    bound.words[1] = 7
    assert memories.memories[0].read(PAGE.base + 8, 8) == b"\7" + bytes(7)
    assert len(bound.bytes) == 64
    for ipa, length in ((PAGE.base + 4, 8), (PAGE.base, 4), (BASE + 0x3FF8, 16), (BASE - 8, 16)):
        with pytest.raises(GuestMemoryError, match=r"not whole 64-bit words|no memory"):
            memories.bind(ipa, length)


def test_bound_bytes_say_what_may_be_done_with_their_memory_now(memories: MemoryMap) -> None:
    bound, beside = memories.bind(PAGE.base, 64), memories.bind(PAGE.end, 64)
    for access, unreadable, unwritable in (
        (Access.NONE, "the memory is not mapped", "the memory is not mapped"),
        (Access.READ, None, "the memory is read-only"),
        (Access.WRITE, None, None),
    ):
        memories.protect(PAGE, access)
        assert (bound.unreadable, bound.unwritable) == (unreadable, unwritable)
        assert beside.unwritable is None
    memories.protect(PAGE, Access.READ)
    with pytest.raises(GuestMemoryError, match="read-only"):
        memories.bind(PAGE.base, 64)


def test_only_the_vmms_own_memory_is_saved(memories: MemoryMap) -> None:
    device = memories.allocate(BASE + 0x1_0000, 0x1000, "the hypervisor's", vmm=False)
    assert device in memories.memories
    assert [memory.region.name for memory in memories.vmm_memories] == ["RAM"]


def test_an_access_that_only_touches_what_is_gone_fails(memories: MemoryMap) -> None:
    memories.protect(PAGE, Access.NONE)
    memories.find(BASE + 0xFF8, 8, Access.WRITE)
    with pytest.raises(GuestMemoryError, match="not mapped"):
        memories.find(BASE + 0xFFC, 8, Access.READ)
    with pytest.raises(GuestMemoryError, match="no memory"):
        memories.find(BASE + 0x4000, 1, Access.READ)


@pytest.mark.parametrize("base", [-65536, 1 << 40, (1 << 40) - 65536, 1 << 128])
def test_memory_outside_of_the_address_space_is_refused(base: int) -> None:
    memory_map = MemoryMap([])
    with pytest.raises(UsageError, match="is not in the guest's address space, which ends at 0x1"):
        memory_map.allocate(base, 1 << 17, "stolen time")
    assert memory_map.memories == []
