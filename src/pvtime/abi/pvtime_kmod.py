# SPDX-License-Identifier: GPL-2.0-or-later
"""/dev/pvtime, the device of pvtime's kernel module (src/pvtime/kmod/module/pvtime_uapi.h has the same)."""

from __future__ import annotations

import ctypes
from enum import IntEnum
from typing import Final

from pvtime.abi.ioctl import IoctlNumber

__all__ = [
    "ATTACH",
    "DEVICE",
    "REGION",
    "REGISTERED",
    "AttachPlacement",
    "PvTimeAttach",
    "PvTimeRegistered",
    "SamplePart",
    "UpdateMethod",
    "UpdateSample",
]

DEVICE: Final = "/dev/pvtime"

REGION: Final = 0x1_0000
"""Bytes of the kernel's memory that can be mapped."""


class AttachPlacement(IntEnum):
    """Providers of an attached vCPU's structure."""

    HYPERVISOR = 1
    GUEST = 2


class PvTimeAttach(ctypes.LittleEndianStructure):
    """Argument of :data:`ATTACH`."""

    _fields_ = (
        ("vcpu_fd", ctypes.c_int32),
        ("placement", ctypes.c_uint32),
        ("ipa", ctypes.c_uint64),
        ("offset", ctypes.c_uint64),
    )


class PvTimeRegistered(ctypes.LittleEndianStructure):
    """Argument of :data:`REGISTERED`. ``run_delay`` in ns."""

    _fields_ = (
        ("vcpu_fd", ctypes.c_int32),
        ("restore", ctypes.c_uint32),
        ("registration", ctypes.c_uint64),
        ("starts", ctypes.c_uint64),
        ("run_delay", ctypes.c_uint64),
    )


ATTACH: Final = int(IoctlNumber.of(direction=1, size=ctypes.sizeof(PvTimeAttach), type=ord("P"), number=0xD0))
"""Have the module write a vCPU's stolen time."""

REGISTERED: Final = int(
    IoctlNumber.of(direction=3, size=ctypes.sizeof(PvTimeRegistered), type=ord("P"), number=0xD1)
)
"""Tell, or restore, the registration of a vCPU whose guest provides the structure."""


class UpdateMethod(IntEnum):
    """Ways in which an update was made."""

    KVM = 0
    MERGED = 1
    PARTS = 2
    CACHED = 3
    STRAIGHT = 4
    X86 = 5


class SamplePart(IntEnum):
    """Parts of an update that were measured."""

    NOTHING = 0
    """A call of an empty function."""
    WHOLE = 1
    SRCU_LOCK = 2
    READ_LOOKUP = 3
    GET_USER = 4
    ADD = 5
    WRITE_LOOKUP = 6
    PUT_USER = 7
    MARK_DIRTY = 8
    SRCU_UNLOCK = 9
    NO_PART = 10
    """Two readings with nothing between them."""


class UpdateSample(ctypes.LittleEndianStructure):
    """A record of read(2)."""

    _fields_ = (
        ("method", ctypes.c_uint16),
        ("part", ctypes.c_uint16),
        ("vcpu", ctypes.c_uint32),
        ("count", ctypes.c_uint64),
    )
