# SPDX-License-Identifier: GPL-2.0-or-later
"""A virtio block device (VIRTIO 1.2, 5.2) whose sectors are a file of the host.

A request is handled synchronously: it transfers at most :data:`MAX_REQUEST` bytes, which the driver is told
(SIZE_MAX, SEG_MAX), and one that asks for more fails. Writes have reached the host's file when they are
answered (the device offers no FLUSH, so that a driver takes its cache for one that writes through).
"""

from __future__ import annotations

import ctypes
import os
from typing import IO, Final

from pvtime.abi.virtio import (
    BLOCK_DEVICE,
    ID_SIZE,
    SECTOR,
    BlockConfig,
    BlockFeature,
    BlockHeader,
    BlockStatus,
    BlockType,
)
from pvtime.machine.device import IrqLine
from pvtime.machine.layout import Region
from pvtime.machine.memory import GuestMemory
from pvtime.machine.virtio.mmio import QUEUE_SIZE, VirtioDevice
from pvtime.machine.virtio.queue import Buffer, Chain, RingError
from pvtime.records import dataclass

__all__ = ["MAX_REQUEST", "Disk", "VirtioBlock"]

SEGMENTS: Final = QUEUE_SIZE - 2
"""As many as the queue has room for, beside header and status: page by page, a request is 248 KiB."""
SEGMENT_SIZE: Final = 64 << 10
"""Bytes; Linux takes no less than a page."""

MAX_REQUEST: Final = SEGMENTS * SEGMENT_SIZE
"""Bytes that one request transfers at most."""

_HEADER: Final = ctypes.sizeof(BlockHeader)
_STATUS: Final = 1


@dataclass(frozen=True)
class Disk:
    """A file of the host as a disk. Bytes behind the last whole sector are not seen."""

    file: IO[bytes]
    """A regular file without a buffer; :meth:`close` closes it."""
    serial: str
    """ASCII, at most 20 characters: by it the guest's userland tells disks apart."""
    writable: bool = False

    @property
    def fd(self) -> int:
        """The file's descriptor."""
        return self.file.fileno()

    @property
    def sectors(self) -> int:
        """The capacity."""
        return os.fstat(self.fd).st_size // SECTOR

    def close(self) -> None:
        """Close the file; harmless when repeated."""
        self.file.close()


class VirtioBlock(VirtioDevice):
    """The device."""

    device_id = BLOCK_DEVICE

    def __init__(self, region: Region, irq: IrqLine, memory: GuestMemory, disk: Disk) -> None:
        features = 1 << BlockFeature.SIZE_MAX | 1 << BlockFeature.SEG_MAX
        if not disk.writable:
            features |= 1 << BlockFeature.RO
        super().__init__(region, irq, memory, features)
        self.disk = disk
        self._sectors = disk.sectors
        self._config = bytes(BlockConfig(self._sectors, SEGMENT_SIZE, SEGMENTS))

    def config(self) -> bytes:
        """See :class:`VirtioDevice`."""
        return self._config

    def handle(self, chain: Chain) -> int:
        """See :class:`VirtioDevice`. A request has a header to read and a status to write at least."""
        writable = sum(buffer.length for buffer in chain.writable)
        if not writable or chain.size - writable < _HEADER:
            raise RingError("a request without a header or a status")
        if chain.size > _HEADER + MAX_REQUEST + _STATUS:
            status, answer = BlockStatus.IOERR, b""
        else:
            status, answer = self._answer(self._gather(chain.readable), writable - _STATUS)
        self._scatter(chain.writable, answer)
        last = next(buffer for buffer in reversed(chain.writable) if buffer.length)
        self._memory.write(last.address + last.length - _STATUS, bytes([status]))
        return writable if len(answer) == writable - _STATUS else len(answer)

    def _answer(self, request: bytes, room: int) -> tuple[BlockStatus, bytes]:
        """Return a request's status, and the data for the driver.

        :param room: bytes that the driver has room for.
        """
        header = BlockHeader.from_buffer_copy(request)
        data = request[_HEADER:]
        try:
            match header.type:
                case BlockType.IN if self._on_disk(header.sector, room):
                    read = os.pread(self.disk.fd, room, header.sector * SECTOR)
                    return (BlockStatus.OK, read) if len(read) == room else (BlockStatus.IOERR, b"")
                case BlockType.OUT if self.disk.writable and self._on_disk(header.sector, len(data)):
                    written = os.pwrite(self.disk.fd, data, header.sector * SECTOR)
                    return BlockStatus.OK if written == len(data) else BlockStatus.IOERR, b""
                case BlockType.GET_ID:
                    return BlockStatus.OK, self.disk.serial.encode("ascii").ljust(ID_SIZE, b"\0")[:room]
                case BlockType.IN | BlockType.OUT:
                    return BlockStatus.IOERR, b""
        except OSError:  # a full or a failing disk of the host
            return BlockStatus.IOERR, b""
        return BlockStatus.UNSUPP, b""

    def _on_disk(self, sector: int, length: int) -> bool:
        return length % SECTOR == 0 and sector + length // SECTOR <= self._sectors

    def _gather(self, buffers: list[Buffer]) -> bytes:
        return b"".join(self._memory.read(buffer.address, buffer.length) for buffer in buffers)

    def _scatter(self, buffers: list[Buffer], data: bytes) -> None:
        rest = memoryview(data)
        for buffer in buffers:
            self._memory.write(buffer.address, rest[: buffer.length])
            rest = rest[buffer.length :]
