# SPDX-License-Identifier: GPL-2.0-or-later
"""Virtio devices: registers of the MMIO transport, split virtqueues, and the block device.

Source: OASIS Virtual I/O Device (VIRTIO) 1.2; the sections are named. Linux has the same numbers in
include/uapi/linux/virtio_mmio.h, virtio_config.h, virtio_ring.h and virtio_blk.h.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum
from typing import Final

from pvtime.abi.layout import Field, Register

__all__ = [
    "BLOCK_DEVICE",
    "ID_SIZE",
    "MAGIC",
    "SECTOR",
    "VERSION",
    "Available",
    "BlockConfig",
    "BlockFeature",
    "BlockHeader",
    "BlockStatus",
    "BlockType",
    "Descriptor",
    "DescriptorFlags",
    "DeviceStatus",
    "Feature",
    "InterruptStatus",
    "MmioReg",
    "RingHead",
    "Used",
]

MAGIC: Final = 0x7472_6976
"""``virt``, little-endian (4.2.2)."""
VERSION: Final = 2
"""Of the transport: 1 is the legacy interface (4.2.4)."""
BLOCK_DEVICE: Final = 2
"""Device ID (5)."""

SECTOR: Final = 512
"""Bytes; positions and capacities count in them, whatever the block size (5.2.4)."""
ID_SIZE: Final = 20
"""Bytes of the answer to :attr:`BlockType.GET_ID` (5.2.6)."""


class MmioReg(IntEnum):
    """Offsets of the registers, 32 bits each (4.2.2, table 4.1)."""

    MAGIC_VALUE = 0x000
    VERSION = 0x004
    DEVICE_ID = 0x008
    VENDOR_ID = 0x00C
    DEVICE_FEATURES = 0x010
    DEVICE_FEATURES_SEL = 0x014
    DRIVER_FEATURES = 0x020
    DRIVER_FEATURES_SEL = 0x024
    QUEUE_SEL = 0x030
    QUEUE_NUM_MAX = 0x034
    QUEUE_NUM = 0x038
    QUEUE_READY = 0x044
    QUEUE_NOTIFY = 0x050
    INTERRUPT_STATUS = 0x060
    INTERRUPT_ACK = 0x064
    STATUS = 0x070
    QUEUE_DESC_LOW = 0x080
    QUEUE_DESC_HIGH = 0x084
    QUEUE_DRIVER_LOW = 0x090
    QUEUE_DRIVER_HIGH = 0x094
    QUEUE_DEVICE_LOW = 0x0A0
    QUEUE_DEVICE_HIGH = 0x0A4
    CONFIG_GENERATION = 0x0FC
    CONFIG = 0x100
    """The device's own configuration begins here, with accesses of any size."""


class DeviceStatus(Register):
    """Status (2.1)."""

    failed = Field(7)
    device_needs_reset = Field(6)
    features_ok = Field(3)
    driver_ok = Field(2)
    driver = Field(1)
    acknowledge = Field(0)


class InterruptStatus(Register):
    """Reasons for the interrupt (4.2.2)."""

    configuration = Field(1)
    """The configuration has changed, or the device needs a reset."""
    used = Field(0)
    """The device has used a buffer."""


class Feature(IntEnum):
    """Features of every device, as bit numbers (6)."""

    VERSION_1 = 32


class DescriptorFlags(Register):
    """``flags`` of a :class:`Descriptor` (2.7.5)."""

    indirect = Field(2)
    write = Field(1)
    """The device writes the buffer; else it reads it."""
    next = Field(0)
    """``next`` is valid."""


class Descriptor(ctypes.LittleEndianStructure):
    """An entry of the descriptor table (2.7.5)."""

    _pack_ = 1
    _fields_ = (
        ("addr", ctypes.c_uint64),
        ("len", ctypes.c_uint32),
        ("flags", ctypes.c_uint16),
        ("next", ctypes.c_uint16),
    )


class RingHead(ctypes.LittleEndianStructure):
    """The beginning of both rings, before their entries (2.7.6, 2.7.8)."""

    _pack_ = 1
    _fields_ = (("flags", ctypes.c_uint16), ("idx", ctypes.c_uint16))


class Available(Register):
    """``flags`` of the available ring (2.7.6)."""

    no_interrupt = Field(0)


class Used(ctypes.LittleEndianStructure):
    """An entry of the used ring (2.7.8)."""

    _pack_ = 1
    _fields_ = (("id", ctypes.c_uint32), ("len", ctypes.c_uint32))


class BlockFeature(IntEnum):
    """Features of a block device, as bit numbers (5.2.3)."""

    SIZE_MAX = 1
    SEG_MAX = 2
    RO = 5


class BlockConfig(ctypes.LittleEndianStructure):
    """The beginning of struct virtio_blk_config (5.2.4); what follows takes features that pvtime has not."""

    _pack_ = 1
    _fields_ = (
        ("capacity", ctypes.c_uint64),
        ("size_max", ctypes.c_uint32),
        ("seg_max", ctypes.c_uint32),
    )


class BlockType(IntEnum):
    """Kinds of request (5.2.6)."""

    IN = 0
    OUT = 1
    GET_ID = 8


class BlockHeader(ctypes.LittleEndianStructure):
    """The beginning of struct virtio_blk_req (5.2.6)."""

    _pack_ = 1
    _fields_ = (("type", ctypes.c_uint32), ("reserved", ctypes.c_uint32), ("sector", ctypes.c_uint64))


class BlockStatus(IntEnum):
    """The last byte of a request (5.2.6)."""

    OK = 0
    IOERR = 1
    UNSUPP = 2
