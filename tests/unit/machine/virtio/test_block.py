# SPDX-License-Identifier: GPL-2.0-or-later
"""A virtio disk does what the specification says, and no driver reaches beyond its RAM and its disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.virtio import DATA, DEVICE, DRIVER, HEADER, RAM_SIZE, STATUS, TABLE, BlockDriver, disk_of
from pvtime.abi.virtio import (
    BlockFeature,
    BlockHeader,
    BlockStatus,
    BlockType,
    Descriptor,
    Feature,
    InterruptStatus,
    MmioReg,
)
from pvtime.machine.layout import RAM_BASE
from pvtime.machine.virtio.block import MAX_REQUEST

SECTORS = 8
CONTENTS = bytes(range(256)) * 2 * SECTORS
NEXT, WRITE, INDIRECT = 1, 2, 4


@pytest.fixture
def driver() -> Iterator[BlockDriver]:
    """Return a driver with a read-only disk of 8 sectors, ready for requests."""
    with closing(BlockDriver(disk_of(CONTENTS))) as driver:
        driver.start()
        yield driver


@pytest.fixture
def writer() -> Iterator[BlockDriver]:
    """Return a driver with a disk that it may write."""
    with closing(BlockDriver(disk_of(CONTENTS, writable=True, serial="share"))) as driver:
        driver.start()
        yield driver


def test_the_device_says_what_it_is(driver: BlockDriver) -> None:
    registers = (MmioReg.MAGIC_VALUE, MmioReg.VERSION, MmioReg.DEVICE_ID, MmioReg.QUEUE_NUM_MAX)
    assert [driver.read(register) for register in registers] == [0x74726976, 2, 2, 64]
    assert driver.device.read(MmioReg.CONFIG, 8) == SECTORS
    assert driver.device.read(MmioReg.CONFIG + 0x20, 4) == 0
    driver.write(MmioReg.DEVICE_FEATURES_SEL, 0)
    assert driver.read(MmioReg.DEVICE_FEATURES) >> BlockFeature.RO & 1
    driver.write(MmioReg.QUEUE_SEL, 1)
    assert driver.read(MmioReg.QUEUE_NUM_MAX) == 0, "there is one queue"


@pytest.mark.parametrize("features", [0, 1 << Feature.VERSION_1 | 1 << 28])
def test_a_legacy_driver_and_one_with_features_that_were_not_offered_are_not_agreed_with(
    driver: BlockDriver, features: int
) -> None:
    driver.negotiate(features)
    assert not driver.status.features_ok
    driver.set_queue(8, TABLE, DRIVER, DEVICE)
    driver.write(MmioReg.STATUS, 15)
    assert driver.read_sectors(0, 512)[0] not in list(BlockStatus), "it was answered"


@pytest.mark.parametrize("room", [(512,), (1024, 512), (100, 412), (512, 0, 512)])
def test_what_is_read_is_on_the_disk(driver: BlockDriver, room: tuple[int, ...]) -> None:
    status, data = driver.read_sectors(3, *room)
    assert (status, data) == (BlockStatus.OK, CONTENTS[3 * 512 : 3 * 512 + sum(room)])
    assert driver.used() == [(0, sum(room) + 1)]


def test_a_request_raises_the_interrupt_until_it_is_acknowledged(driver: BlockDriver) -> None:
    assert driver.works()
    assert driver.wire == [True]
    assert driver.read(MmioReg.INTERRUPT_STATUS) == InterruptStatus.of(used=1)
    driver.write(MmioReg.INTERRUPT_ACK, 1)
    assert driver.wire == [True, False]
    driver.memory.write(DRIVER, b"\x01\x00")
    assert driver.works()
    assert driver.wire == [True, False], "an interrupt that the driver did not want"


def test_the_rings_go_round(driver: BlockDriver) -> None:
    for _ in range(70_000 // 64):
        assert driver.works()
    driver.made = 0xFFFE
    driver.device._queue._taken = 0xFFFE
    assert all(driver.works() for _ in range(5))


@pytest.mark.parametrize(
    ("sector", "length"), [(SECTORS, 512), (SECTORS - 1, 1024), (1 << 63, 512), (0, 513), (2**64 - 1, 512)]
)
def test_nothing_beyond_the_disk_is_read(driver: BlockDriver, sector: int, length: int) -> None:
    assert driver.read_sectors(sector, length) == (BlockStatus.IOERR, b"\xee" * length)
    assert driver.works()


def test_a_read_only_disk_is_not_written(driver: BlockDriver) -> None:
    assert driver.request(BlockType.OUT, 0, bytes(512))[0] == BlockStatus.IOERR
    assert driver.read_sectors(0, 512)[1] == CONTENTS[:512]


def test_a_writable_disk_is_written_and_does_not_grow(writer: BlockDriver) -> None:
    assert writer.request(BlockType.OUT, 7, b"n" * 512)[0] == BlockStatus.OK
    assert writer.request(BlockType.OUT, 7, b"n" * 1024)[0] == BlockStatus.IOERR
    assert writer.read_sectors(7, 512)[1] == b"n" * 512
    assert os.fstat(writer.device.disk.fd).st_size == len(CONTENTS)


def test_a_disk_has_a_name_and_unknown_requests_are_refused(writer: BlockDriver) -> None:
    assert writer.request(BlockType.GET_ID, 0, room=(20,)) == (BlockStatus.OK, b"share".ljust(20, b"\0"))
    assert writer.request(11, 0, room=(512,))[0] == BlockStatus.UNSUPP


def test_a_file_that_shrinks_under_the_guest_is_an_error_of_the_disk(driver: BlockDriver) -> None:
    os.ftruncate(driver.device.disk.fd, 512)
    assert driver.read_sectors(1, 512)[0] == BlockStatus.IOERR
    assert driver.works()


def test_a_request_is_bounded(driver: BlockDriver) -> None:
    # Each of the three buffers is in RAM; all are more than any request transfers.
    driver.memory.write(HEADER, bytes(BlockHeader(BlockType.IN, 0, 0)))
    driver.describe(0, HEADER, 16, NEXT, 1)
    for index in range(1, 4):
        driver.describe(index, RAM_BASE, MAX_REQUEST, WRITE | NEXT, index + 1)
    driver.describe(4, STATUS, 1, WRITE)
    driver.offer(0)
    assert driver.memory.read(STATUS, 1)[0] == BlockStatus.IOERR
    assert driver.works()


END = RAM_BASE + RAM_SIZE


@pytest.mark.parametrize(
    ("name", "descriptors"),
    [
        ("beyond RAM", [(HEADER, 16, NEXT, 1), (END - 511, 512, WRITE, 0)]),
        ("the end of all addresses", [(HEADER, 16, NEXT, 1), (2**64 - 1, 512, WRITE, 0)]),
        ("a circle", [(HEADER, 16, NEXT, 1), (DATA, 512, WRITE | NEXT, 1)]),
        ("beyond the table", [(HEADER, 16, NEXT, 8)]),
        ("an indirect table", [(HEADER, 16, INDIRECT, 0)]),
        ("to read behind one to write", [(DATA, 512, WRITE | NEXT, 1), (HEADER, 16, 0, 0)]),
        ("no status", [(HEADER, 16, 0, 0)]),
        ("half a header", [(HEADER, 15, NEXT, 1), (DATA, 512, WRITE, 0)]),
        ("no byte for the status", [(HEADER, 16, NEXT, 1), (DATA, 0, WRITE, 0)]),
    ],
)
def test_a_chain_that_breaks_the_rules_stops_the_queue_until_a_reset(
    name: str, descriptors: list[tuple[int, int, int, int]], driver: BlockDriver
) -> None:
    driver.memory.write(HEADER, bytes(BlockHeader(BlockType.IN, 0, 0)))
    for index, descriptor in enumerate(descriptors):
        driver.describe(index, *descriptor)
    driver.offer(0)
    assert driver.status.device_needs_reset, name
    assert driver.read(MmioReg.INTERRUPT_STATUS) == InterruptStatus.of(configuration=1)
    assert driver.used() == []
    assert not driver.works(), "it goes on"
    driver.start()
    assert driver.works()


@pytest.mark.parametrize("index", [9, 0x8000, 0xFFFF])
def test_more_chains_than_descriptors_are_refused(index: int, driver: BlockDriver) -> None:
    driver.offer(index=index)
    assert driver.status.device_needs_reset
    assert driver.used() == []


@pytest.mark.parametrize(
    ("size", "parts"),
    [
        (0, (TABLE, DRIVER, DEVICE)),
        (3, (TABLE, DRIVER, DEVICE)),
        (128, (TABLE, DRIVER, DEVICE)),
        (8, (TABLE + 8, DRIVER, DEVICE)),
        (8, (TABLE, DRIVER + 1, DEVICE)),
        (8, (TABLE, DRIVER, DEVICE + 2)),
        (8, (END - 64, DRIVER, DEVICE)),
        (8, (TABLE, 0, DEVICE)),
        (8, (TABLE, DRIVER, 2**64 - 4)),
    ],
)
def test_a_queue_that_is_not_in_ram_is_not_taken_into_use(
    size: int, parts: tuple[int, int, int], driver: BlockDriver
) -> None:
    driver.negotiate()
    driver.set_queue(size, *parts)
    driver.write(MmioReg.STATUS, 15)
    assert driver.read(MmioReg.QUEUE_READY) == 0
    assert driver.status.device_needs_reset
    driver.write(MmioReg.QUEUE_NOTIFY, 0)


ADDRESSES = st.sampled_from([TABLE, DRIVER, DEVICE, HEADER, DATA, STATUS, END - 1, END, 0, 2**64 - 1])
DESCRIPTORS = st.builds(
    Descriptor,
    ADDRESSES,
    st.sampled_from([0, 1, 15, 16, 17, 512, 513, 1 << 16, MAX_REQUEST, 2**32 - 1]),
    st.integers(0, 7) | st.integers(0, 0xFFFF),
    st.integers(0, 8) | st.integers(0, 0xFFFF),
)
WRITES = st.tuples(st.sampled_from([*MmioReg]) | st.integers(0, 0x200), st.integers(0, 2**32 - 1))


@settings(max_examples=150, deadline=None)
@given(
    table=st.lists(DESCRIPTORS, min_size=8, max_size=8),
    ring=st.lists(st.integers(0, 8) | st.integers(0, 0xFFFF), min_size=8, max_size=8),
    index=st.integers(0, 8) | st.integers(0, 0xFFFF),
    header=st.builds(BlockHeader, st.sampled_from([0, 1, 8, 11]), st.just(0), st.integers(0, 2**64 - 1)),
    writes=st.lists(WRITES, max_size=6),
)
def test_no_ring_raises_reaches_beyond_ram_or_stops_the_device_for_good(
    table: list[Descriptor], ring: list[int], index: int, header: BlockHeader, writes: list[tuple[int, int]]
) -> None:
    with closing(BlockDriver(disk_of(CONTENTS, writable=True))) as driver:
        driver.start()
        driver.memory.write(HEADER, bytes(header))
        driver.memory.write(DRIVER + 4, b"".join(head.to_bytes(2, "little") for head in ring))
        driver.memory.write(TABLE, b"".join(map(bytes, table)))
        driver.offer(index=index)
        for register, value in writes:
            driver.write(register, value)
            driver.read(register)
        driver.write(MmioReg.QUEUE_NOTIFY, 0)
        assert os.fstat(driver.device.disk.fd).st_size == len(CONTENTS)
        driver.write(MmioReg.STATUS, 0)
        driver.memory.clear()
        driver.start()
        assert driver.works()
