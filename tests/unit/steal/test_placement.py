# SPDX-License-Identifier: GPL-2.0-or-later
"""Placements: whose 64 bytes, aligned and within their region; and what an account without one answers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvtime.abi.pvtime import StolenTime
from pvtime.errors import UsageError
from pvtime.machine.memory import GuestMemory
from pvtime.steal.account import Account
from pvtime.steal.placement import Userspace

BASE = 0x20_0000
SIZE = 0x1_0000
U64 = 1 << 64


class Window:
    """Memory that starts and ends anywhere."""

    def __init__(self, base: int, size: int) -> None:
        self.base = base
        self.size = size

    def load_u64(self, ipa: int) -> int:
        raise AssertionError("not to be touched")

    def store_u64(self, ipa: int, value: int) -> None:
        raise AssertionError("not to be touched")

    def write(self, ipa: int, data: bytes) -> None:
        raise AssertionError("not to be touched")


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    """Return a region for structures."""
    memory = GuestMemory(BASE, SIZE, "stolen time")
    yield memory
    memory.close()


@given(base=st.integers(0, 1 << 40), index=st.integers(0, 2000))
def test_a_structure_is_aligned_to_64_bytes_or_refused(base: int, index: int) -> None:
    window = Window(base, SIZE * 100)
    if base % 64:
        with pytest.raises(UsageError, match="must be aligned to 64 bytes"):
            Userspace(window, index)
    else:
        assert Userspace(window, index).ipa == base + 64 * index


@given(size=st.integers(0, 4096), index=st.integers(0, 100))
def test_a_structure_is_within_its_region_or_refused(size: int, index: int) -> None:
    if 64 * (index + 1) > size:
        with pytest.raises(UsageError, match=f"vCPU {index} does not fit into {size} bytes"):
            Userspace(Window(BASE, size), index)
    else:
        assert Userspace(Window(BASE, size), index).ipa + 64 <= BASE + size


def test_the_last_structure_fits_and_the_next_does_not(memory: GuestMemory) -> None:
    assert Userspace(memory, SIZE // 64 - 1).ipa == BASE + SIZE - 64
    with pytest.raises(UsageError):
        Userspace(memory, SIZE // 64)


@given(stolen=st.integers(0, U64 - 1), index=st.integers(0, 7))
def test_a_count_goes_to_its_own_eight_bytes(stolen: int, index: int) -> None:
    memory = GuestMemory(BASE, SIZE, "stolen time")
    try:
        memory.write(BASE, b"\xa5" * SIZE)
        placement = Userspace(memory, index)
        placement.store(stolen)
        assert placement.load() == stolen
        start = 64 * index + StolenTime.stolen_time.offset
        expected = bytearray(b"\xa5" * SIZE)
        expected[start : start + 8] = stolen.to_bytes(8, "little")
        assert memory.read(BASE, SIZE) == expected
    finally:
        memory.close()


def test_a_reset_empties_one_structure_with_its_padding(memory: GuestMemory) -> None:
    memory.write(BASE, b"\xa5" * SIZE)
    Userspace(memory, 1).reset()
    assert memory.read(BASE, SIZE) == b"\xa5" * 64 + bytes(64) + b"\xa5" * (SIZE - 128)


def test_the_count_wraps_at_64_bits(memory: GuestMemory) -> None:
    account = Account(Userspace(memory, 0))
    account.enable(0)
    memory.store_u64(BASE + 8, U64 - 1)
    account.update(5)
    assert account.structure() == 4
    assert account.truth(5) == 5


def test_an_update_without_news_writes_nothing(memory: GuestMemory) -> None:
    account = Account(Userspace(memory, 0))
    account.enable(7)
    memory.write(BASE, b"\xff" * 64)
    account.update(7)
    assert memory.read(BASE, 64) == b"\xff" * 64


def test_what_is_added_while_the_vcpu_is_stopped_is_kept(memory: GuestMemory) -> None:
    account = Account(Userspace(memory, 0))
    account.enable(100)
    account.update(150)
    memory.store_u64(BASE + 8, memory.load_u64(BASE + 8) + 1000)
    account.update(160)
    assert account.structure() == 60 + 1000


def test_an_account_without_a_structure_has_nothing_and_does_nothing() -> None:
    account = Account(None)
    assert not account.available
    assert account.enable(5) is None
    account.update(10)
    account.reset(12)
    assert (account.enabled, account.truth(15), account.structure()) == (False, 0, 0)
