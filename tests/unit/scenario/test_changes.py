# SPDX-License-Identifier: GPL-2.0-or-later
"""Comparing a guest's memory at two moments, most of which nobody has written."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pvtime.machine.layout import Region
from pvtime.machine.memory import GuestMemory
from pvtime.scenario.changes import Change, Snapshot

BASE = 0x4000_0000
SIZE = 1 << 20
CHUNK = 64 << 10


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    """Return memory with one word in it."""
    memory = GuestMemory(BASE, SIZE, "RAM")
    memory.store_u64(BASE + 8, 1)
    yield memory
    memory.close()


def word(value: int) -> bytes:
    """Return a word's bytes."""
    return value.to_bytes(8, "little")


def test_every_changed_word_is_found_also_where_nothing_was_before(memory: GuestMemory) -> None:
    snapshot = Snapshot(memory, Region("nothing", BASE + SIZE, 0))
    assert snapshot.bytes_compared == SIZE
    assert snapshot.changes() == []
    memory.store_u64(BASE + 8, 0)
    memory.store_u64(BASE + 5 * CHUNK, 2)
    memory.store_u64(BASE + SIZE - 8, 3)
    assert snapshot.changes() == [
        Change(BASE + 8, word(1), word(0)),
        Change(BASE + 5 * CHUNK, word(0), word(2)),
        Change(BASE + SIZE - 8, word(0), word(3)),
    ]


def test_what_may_change_is_not_compared(memory: GuestMemory) -> None:
    snapshot = Snapshot(memory, Region("mailboxes", BASE + 8, 8))
    assert snapshot.bytes_compared == SIZE - 8
    for address in (BASE, BASE + 8, BASE + 16):
        memory.store_u64(address, 7)
    assert [change.address for change in snapshot.changes()] == [BASE, BASE + 16]


def test_a_region_can_be_compared_with_what_it_was_filled_with(memory: GuestMemory) -> None:
    data = Region("data", BASE + 2 * CHUNK, 2 * CHUNK)
    snapshot = Snapshot(memory, Region("nothing", BASE + SIZE, 0))
    snapshot.expect(data, 0x5A)
    assert len(snapshot.changes()) == data.size // 8, "it is still zero"
    memory.write(data.base, word(0x5A) * (data.size // 8))
    assert snapshot.changes() == []
    memory.store_u64(data.end - 8, 0x5B)
    assert snapshot.changes() == [Change(data.end - 8, word(0x5A), word(0x5B))]
