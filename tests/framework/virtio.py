# SPDX-License-Identifier: GPL-2.0-or-later
"""A driver of a virtio block device that writes its rings by hand, as they should be or not."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

from pvtime.abi.virtio import (
    BlockHeader,
    BlockStatus,
    BlockType,
    Descriptor,
    DescriptorFlags,
    DeviceStatus,
    Feature,
    MmioReg,
    Used,
)
from pvtime.machine.layout import DISKS, RAM_BASE
from pvtime.machine.memory import GuestMemory
from pvtime.machine.virtio.block import Disk, VirtioBlock

__all__ = ["DATA", "DEVICE", "DRIVER", "HEADER", "RAM_SIZE", "STATUS", "TABLE", "BlockDriver", "disk_of"]

RAM_SIZE = 4 << 20

TABLE, DRIVER, DEVICE = RAM_BASE, RAM_BASE + 0x1000, RAM_BASE + 0x2000
HEADER, DATA, STATUS = RAM_BASE + 0x3000, RAM_BASE + 0x1_0000, RAM_BASE + 0x4000
UNTOUCHED = 0xEE


def disk_of(contents: bytes, *, writable: bool = False, serial: str = "root") -> Disk:
    """Return a disk in memory."""
    file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (the disk closes it)
    file.write(contents)
    return Disk(file, serial, writable)


class BlockDriver:
    """The driver, with a device of its own."""

    def __init__(self, disk: Disk, size: int = 8) -> None:
        self.memory = GuestMemory(RAM_BASE, RAM_SIZE, "RAM")
        self.size = size
        self.wire: list[bool] = []
        self.device = VirtioBlock(DISKS[0], self.wire.append, self.memory, disk)
        self.made = 0

    def read(self, register: int) -> int:
        return self.device.read(register, 4)

    def write(self, register: int, value: int) -> None:
        self.device.write(register, 4, value)

    @property
    def status(self) -> DeviceStatus:
        return DeviceStatus(self.read(MmioReg.STATUS))

    def negotiate(self, features: int = 1 << Feature.VERSION_1) -> None:
        """Do what a driver does before it sets up its queue (3.1.1)."""
        for status in (0, 1, 3):
            self.write(MmioReg.STATUS, status)
        for half in (0, 1):
            self.write(MmioReg.DRIVER_FEATURES_SEL, half)
            self.write(MmioReg.DRIVER_FEATURES, features >> 32 * half & 0xFFFF_FFFF)
        self.write(MmioReg.STATUS, 11)

    def start(self) -> None:
        """Initialise the device and its queue."""
        self.negotiate()
        self.made = 0
        self.write(MmioReg.QUEUE_SEL, 0)
        self.set_queue(self.size, TABLE, DRIVER, DEVICE)
        self.write(MmioReg.STATUS, 15)

    def set_queue(self, size: int, table: int, driver: int, device: int) -> None:
        """Tell where the queue is, and take it into use."""
        self.write(MmioReg.QUEUE_NUM, size)
        for low, address in (
            (MmioReg.QUEUE_DESC_LOW, table),
            (MmioReg.QUEUE_DRIVER_LOW, driver),
            (MmioReg.QUEUE_DEVICE_LOW, device),
        ):
            self.write(low, address & 0xFFFF_FFFF)
            self.write(low + 4, address >> 32)
        self.write(MmioReg.QUEUE_READY, 1)

    def describe(self, index: int, address: int, length: int, flags: int = 0, follower: int = 0) -> None:
        """Write a descriptor."""
        self.memory.write(TABLE + 16 * index, bytes(Descriptor(address, length, flags, follower)))

    def offer(self, *heads: int, index: int | None = None) -> None:
        """Make chains available, and notify the device."""
        for head in heads:
            self.memory.write(DRIVER + 4 + 2 * (self.made % self.size), head.to_bytes(2, "little"))
            self.made = self.made + 1 & 0xFFFF
        claimed = self.made if index is None else index
        self.memory.write(DRIVER + 2, claimed.to_bytes(2, "little"))
        self.write(MmioReg.QUEUE_NOTIFY, 0)

    def used(self) -> list[tuple[int, int]]:
        """Return the chains in the used ring, with the bytes written to each."""
        index = int.from_bytes(self.memory.read(DEVICE + 2, 2), "little")
        ring = self.memory.read(DEVICE + 4, 8 * self.size)
        entries = (Used.from_buffer_copy(ring, 8 * (at % self.size)) for at in range(index))
        return [(entry.id, entry.len) for entry in entries]

    def request(
        self, kind: int, sector: int, data: bytes = b"", room: Sequence[int] = ()
    ) -> tuple[int, bytes]:
        """Make a request of a header, data to write and room for data to read; return status and data."""
        self.memory.write(HEADER, bytes(BlockHeader(kind, 0, sector)))
        self.memory.write(DATA, data or bytes([UNTOUCHED]) * sum(room))
        self.memory.write(STATUS, bytes([UNTOUCHED]))
        following = int(DescriptorFlags.of(next=1))
        writes = int(DescriptorFlags.of(write=1))
        parts = [(HEADER, 16, 0)]
        if data:
            parts.append((DATA, len(data), 0))
        at = DATA
        for length in room:
            parts.append((at, length, writes))
            at += length
        parts.append((STATUS, 1, writes))
        for index, (address, length, flags) in enumerate(parts):
            last = index == len(parts) - 1
            self.describe(index, address, length, flags | (0 if last else following), index + 1)
        self.offer(0)
        return self.memory.read(STATUS, 1)[0], self.memory.read(DATA, sum(room))

    def read_sectors(self, sector: int, *room: int) -> tuple[int, bytes]:
        """Read into buffers of these sizes."""
        return self.request(BlockType.IN, sector, room=room)

    def works(self) -> bool:
        """Whether a request is answered as it should be."""
        return self.read_sectors(0, 512)[0] == BlockStatus.OK

    def close(self) -> None:
        """Give the memory back, and close the disk."""
        self.memory.close()
        self.device.disk.close()
