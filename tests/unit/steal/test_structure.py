# SPDX-License-Identifier: GPL-2.0-or-later
"""Placements: whose 64 bytes, aligned and within their region; and what an account without one answers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvtime.abi.pvtime import PvTime, StolenTime
from pvtime.errors import GuestMemoryError, UsageError
from pvtime.machine.memory import GuestMemory
from pvtime.machine.memory_map import Access, MemoryMap
from pvtime.steal.account import Account, GuestUse
from pvtime.steal.structure import CheckedStructure, StraightStructure

BASE = 0x20_0000
SIZE = 0x1_0000
U64 = 1 << 64


@pytest.fixture
def memories() -> Iterator[MemoryMap]:
    """Return a memory map with a region for structures."""
    memories = MemoryMap([])
    memories.allocate(BASE, SIZE, "stolen time")
    yield memories
    memories.close()


@pytest.fixture
def memory(memories: MemoryMap) -> GuestMemory:
    """Return that region."""
    return memories.memories[0]


@given(offset=st.integers(0, 4096), index=st.integers(0, 2000))
def test_a_structure_is_aligned_to_64_bytes_and_in_memory_or_refused(offset: int, index: int) -> None:
    memories = MemoryMap([])
    memories.allocate(BASE, SIZE, "stolen time")
    try:
        if offset % 64:
            with pytest.raises(UsageError, match="must be aligned to 64 bytes"):
                CheckedStructure(memories, BASE + offset, index)
        elif offset + 64 * (index + 1) > SIZE:
            with pytest.raises(GuestMemoryError, match="there is no memory"):
                CheckedStructure(memories, BASE + offset, index)
        else:
            assert CheckedStructure(memories, BASE + offset, index).ipa == BASE + offset + 64 * index
    finally:
        memories.close()


def test_the_last_structure_fits_and_the_next_does_not(memories: MemoryMap) -> None:
    assert CheckedStructure(memories, BASE, SIZE // 64 - 1).ipa == BASE + SIZE - 64
    with pytest.raises(GuestMemoryError):
        CheckedStructure(memories, BASE, SIZE // 64)


@pytest.mark.parametrize("kind", [CheckedStructure, StraightStructure])
@given(stolen=st.integers(0, U64 - 1), index=st.integers(0, 7))
def test_a_count_goes_to_its_own_eight_bytes(
    kind: type[CheckedStructure | StraightStructure], stolen: int, index: int
) -> None:
    memories = MemoryMap([])
    memory = memories.allocate(BASE, SIZE, "stolen time")
    try:
        memory.write(BASE, b"\xa5" * SIZE)
        structure = kind(memories, BASE, index)
        structure.store(stolen)
        assert structure.load() == stolen
        start = 64 * index + StolenTime.stolen_time.offset
        expected = bytearray(b"\xa5" * SIZE)
        expected[start : start + 8] = stolen.to_bytes(8, "little")
        assert memory.read(BASE, SIZE) == expected
    finally:
        memories.close()


@pytest.mark.parametrize("access", [Access.NONE, Access.READ])
def test_memory_that_is_taken_away_is_not_written_and_what_was_missed_is_added_later(
    memories: MemoryMap, memory: GuestMemory, access: Access
) -> None:
    account = Account(CheckedStructure(memories, BASE, 0))
    account.update_stolen_time(10)
    memories.protect(memory.region, access)
    account.update_stolen_time(25)
    assert account.structure() == (10 if access is Access.READ else None), "absent is absent"
    assert account.fault
    assert memory.load_u64(BASE + 8) == 10
    memories.protect(memory.region, Access.WRITE)
    account.update_stolen_time(30)
    assert account.structure() == account.truth(30) == 30
    assert not account.fault


def test_the_hypervisors_own_memory_cannot_be_taken_away_from_it(
    memories: MemoryMap, memory: GuestMemory
) -> None:
    account = Account(StraightStructure(memories, BASE, 0))
    memories.protect(memory.region, Access.NONE)
    account.update_stolen_time(25)
    assert account.fault is None
    assert memory.load_u64(BASE + 8) == 25


def test_a_reset_empties_one_structure_with_its_padding(memories: MemoryMap, memory: GuestMemory) -> None:
    memory.write(BASE, b"\xa5" * SIZE)
    CheckedStructure(memories, BASE, 1).clear()
    assert memory.read(BASE, SIZE) == b"\xa5" * 64 + bytes(64) + b"\xa5" * (SIZE - 128)


def test_the_count_wraps_at_64_bits(memories: MemoryMap, memory: GuestMemory) -> None:
    account = Account(CheckedStructure(memories, BASE, 0))
    account.init_stolen_time(0)
    memory.store_u64(BASE + 8, U64 - 1)
    account.update_stolen_time(5)
    assert account.structure() == 4
    assert account.truth(5) == 5


def test_an_update_without_news_writes_nothing(memories: MemoryMap, memory: GuestMemory) -> None:
    account = Account(CheckedStructure(memories, BASE, 0))
    account.init_stolen_time(7)
    memory.write(BASE, b"\xff" * 64)
    account.update_stolen_time(7)
    assert memory.read(BASE, 64) == b"\xff" * 64


def test_what_is_added_while_the_vcpu_is_stopped_is_kept(memories: MemoryMap, memory: GuestMemory) -> None:
    account = Account(CheckedStructure(memories, BASE, 0))
    account.init_stolen_time(100)
    account.update_stolen_time(150)
    memory.store_u64(BASE + 8, memory.load_u64(BASE + 8) + 1000)
    account.update_stolen_time(160)
    assert account.structure() == 60 + 1000


def test_an_account_without_a_structure_has_truth_alone() -> None:
    account = Account(None)
    assert not account.offers(PvTime.ST)
    assert account.init_stolen_time(5) is None
    account.update_stolen_time(10)
    assert (account.use, account.truth(15), account.structure()) == (GuestUse.ABSENT, 15, None)
    account.reset(12)
    assert (account.use, account.truth(15), account.structure()) == (GuestUse.ABSENT, 3, None)
