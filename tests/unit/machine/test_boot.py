# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel, device tree and initrd get places that the arm64 boot protocol allows, or are refused."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvtime.errors import UsageError
from pvtime.machine.boot import MAX_DEVICE_TREE, load, place
from pvtime.machine.image import KernelImage
from pvtime.machine.layout import RAM_BASE, Region
from pvtime.machine.memory import GuestMemory

MIB = 1 << 20


def kernel(image_size: int, text_offset: int = 0) -> KernelImage:
    return KernelImage(b"kernel", text_offset, image_size, None)


@settings(deadline=None)
@given(
    ram=st.integers(1, 4096),
    image_size=st.integers(6, 512 * MIB),
    text_offset=st.sampled_from([0, 0x8_0000]) | st.integers(0, 512 * MIB),
    initrd=st.integers(0, 2048 * MIB),
)
def test_places_keep_to_the_protocol(ram: int, image_size: int, text_offset: int, initrd: int) -> None:
    memory = Region("RAM", RAM_BASE, ram * MIB)
    try:
        places = place(memory, kernel(image_size, text_offset), initrd)
    except UsageError:
        # Alignment costs less than two units, and the device tree one.
        assert text_offset + image_size + initrd + 3 * MAX_DEVICE_TREE > memory.size
        return
    parts = [places.kernel, places.device_tree, *([places.initrd] if places.initrd else [])]
    assert (places.kernel.base - text_offset) % (2 * MIB) == 0
    assert places.device_tree.base % 8 == 0
    assert bool(places.initrd) == bool(initrd)
    assert all(memory.base <= part.base and part.end <= memory.end for part in parts)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(parts, 2))


def test_everything_is_written_and_the_guest_starts_at_the_kernel() -> None:
    memory = GuestMemory(RAM_BASE, 16 * MIB, "RAM")
    image = kernel(4 * MIB, 0x8_0000)
    places = place(memory.region, image, 6)
    entry = load(memory, places, image, b"initrd", b"tree")
    assert (entry.pc, entry.x0) == (RAM_BASE + 0x8_0000, places.device_tree.base)
    assert places.initrd is not None
    assert memory.read(entry.pc, 6) == b"kernel"
    assert memory.read(entry.x0, 4) == b"tree"
    assert memory.read(places.initrd.base, 6) == b"initrd"
    memory.close()


def test_what_does_not_fit_is_refused_with_the_memory_it_takes() -> None:
    ram = Region("RAM", RAM_BASE, 64 * MIB)
    with pytest.raises(UsageError, match=r"kernel of 28M and an initrd of 60M .* 64M .* give the guest 128M"):
        place(ram, kernel(28 * MIB), 60 * MIB - 1)
    with pytest.raises(UsageError, match=r"kernel of 65M do.* give the guest 128M"):
        place(ram, kernel(65 * MIB), 0)
    place(Region("RAM", RAM_BASE, 128 * MIB), kernel(28 * MIB), 60 * MIB)


def test_an_initrd_beyond_the_window_is_refused() -> None:
    with pytest.raises(UsageError, match="larger than any kernel takes"):
        place(Region("RAM", RAM_BASE, 64 << 30), kernel(28 * MIB), 33 << 30)


def test_a_device_tree_beyond_what_kernels_map_is_refused() -> None:
    memory = GuestMemory(RAM_BASE, 16 * MIB, "RAM")
    places = place(memory.region, kernel(MIB), 0)
    with pytest.raises(UsageError, match="device tree"):
        load(memory, places, kernel(MIB), b"", bytes(MAX_DEVICE_TREE + 1))
    memory.close()
