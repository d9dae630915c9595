# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest memory stays inside its bounds, and a word is stored whole."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvtime.errors import GuestMemoryError, UsageError
from pvtime.machine.memory import MIN_MEMORY, GuestMemory, check_memory_size

BASE = 0x4000_0000
SIZE = 4 * mmap.PAGESIZE


@pytest.fixture(scope="module")
def memory() -> Iterator[GuestMemory]:
    guest = GuestMemory(BASE, SIZE, "RAM")
    yield guest
    guest.close()


def test_what_is_written_is_at_the_host_address(memory: GuestMemory) -> None:
    memory.write(BASE + 3, b"stolen")
    assert memory.read(BASE + 3, 6) == b"stolen"
    assert ctypes.string_at(memory.address + 3, 6) == b"stolen"


def test_a_word_is_little_endian_and_wraps_at_64_bits(memory: GuestMemory) -> None:
    memory.store_u64(BASE + 8, (1 << 64) + 0x0102)
    assert memory.read(BASE + 8, 8) == b"\x02\x01" + bytes(6)
    assert memory.load_u64(BASE + 8) == 0x0102


def test_a_view_is_the_memory_itself(memory: GuestMemory) -> None:
    with memory.view(BASE + SIZE - 2, 2) as view:
        view[:] = b"ok"
    assert memory.read(BASE + SIZE - 2, 2) == b"ok"


def test_clear_makes_zeroes(memory: GuestMemory) -> None:
    memory.store_u64(BASE, 1)
    memory.clear()
    assert memory.load_u64(BASE) == 0


@settings(deadline=None)
@given(ipa=st.integers(BASE - 64, BASE + SIZE + 64) | st.integers(), length=st.integers(-8, 64))
def test_an_access_is_inside_or_refused(memory: GuestMemory, ipa: int, length: int) -> None:
    if ipa >= BASE and length >= 0 and ipa + length <= BASE + SIZE:
        assert len(memory.read(ipa, length)) == length
        memory.write(ipa, bytes(length))
        memory.view(ipa, length).release()
        return
    with pytest.raises(GuestMemoryError, match="RAM"):
        memory.read(ipa, length)
    with pytest.raises(GuestMemoryError, match="RAM"):
        memory.view(ipa, length)
    if length >= 0:
        with pytest.raises(GuestMemoryError, match="RAM"):
            memory.write(ipa, bytes(length))


@pytest.mark.parametrize("ipa", [BASE - 8, BASE + 4, BASE + SIZE - 4, BASE + SIZE])
def test_a_word_outside_or_misaligned_is_refused(memory: GuestMemory, ipa: int) -> None:
    with pytest.raises(GuestMemoryError):
        memory.load_u64(ipa)
    with pytest.raises(GuestMemoryError):
        memory.store_u64(ipa, 0)


@pytest.mark.parametrize(("base", "size"), [(0, 0), (0, -4096), (0, 100), (8, mmap.PAGESIZE), (0, 1 << 62)])
def test_impossible_memory_is_refused(base: int, size: int) -> None:
    with pytest.raises(GuestMemoryError, match="RAM"):
        GuestMemory(base, size, "RAM")


def test_untouched_memory_costs_nothing() -> None:
    resident = _resident_kib()
    guest = GuestMemory(0, 8 << 30, "large")
    guest.store_u64(guest.end - 8, 1)
    assert _resident_kib() - resident < 64 << 10
    guest.close()


def _resident_kib() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * mmap.PAGESIZE >> 10


def test_close_is_harmless_twice_and_with_a_view() -> None:
    guest = GuestMemory(0, SIZE, "RAM")
    view = guest.view(0, 1)
    guest.close()
    guest.close()
    assert view[0] == 0
    view.release()
    guest.close()


def test_memory_sizes() -> None:
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    check_memory_size(MIN_MEMORY)
    with pytest.raises(UsageError, match="give 64M or more"):
        check_memory_size(MIN_MEMORY - (1 << 20))
    with pytest.raises(UsageError, match="give 65M"):
        check_memory_size(MIN_MEMORY + 1)
    with pytest.raises(UsageError, match=f"host's {host >> 20}M"):
        check_memory_size((host >> 20) + 1 << 20)


def test_what_the_engine_needs_counts_as_well() -> None:
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    most = (host >> 20) - 128 << 20
    check_memory_size(most, 128 << 20)
    with pytest.raises(UsageError, match=f"and 128M for the engine are more than this host's {host >> 20}M"):
        check_memory_size(most + (1 << 20), 128 << 20)


def test_a_devices_pages_take_the_contents_along_at_the_same_address() -> None:
    memory = GuestMemory(BASE, SIZE, "stolen time")
    words = memory.view(BASE, 16).cast("Q")
    words[0] = 7
    file = os.memfd_create("device")
    os.truncate(file, SIZE)
    memory.map_file(file)
    assert words[0] == 7
    os.pwrite(file, bytes([9]), 8)
    assert words[1] == 9, "what the device writes is the guest's memory"
    memory.clear()
    assert os.pread(file, SIZE, 0) == bytes(SIZE)
    words[0] = 8
    memory.unmap_file()
    words[1] = 5
    assert (memory.load_u64(BASE), words[0]) == (8, 8)
    assert os.pread(file, 16, 0) == bytes([8]) + bytes(15), "it is the device's no more"
    memory.unmap_file()
    os.close(file)
    with pytest.raises(GuestMemoryError, match="its pages cannot be replaced: Bad file descriptor"):
        memory.map_file(file)
    assert words[0] == 8
    words.release()
    memory.close()
