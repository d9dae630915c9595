# SPDX-License-Identifier: GPL-2.0-or-later
"""The interface of the probe (guests/probe.S) and its host: mailboxes, commands, and layout of memory.

The probe's source has the same numbers, and a test compares them.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum
from typing import Final

__all__ = [
    "ALIGN",
    "ARGUMENTS",
    "BOXES",
    "CLOCK_INSTRUCTIONS",
    "CODE",
    "FIRST_SPI",
    "LPT_CLOCK_INSTRUCTIONS",
    "MAILBOXES",
    "MAX_PROBES",
    "SECONDARY_ENTRY",
    "SIZE",
    "Command",
    "Mailbox",
    "ProbeState",
]

ALIGN: Final = 0x1000
"""The probe's base is a multiple of this: it has translation tables."""

CODE: Final = 0x1000
"""Bytes of code."""

SECONDARY_ENTRY: Final = 4
"""Bytes from the probe's base to the entry for CPU_ON."""

MAILBOXES: Final = 0x5000
"""Bytes from the probe's base to vCPU 0's mailbox; the others' follow."""

MAX_PROBES: Final = 64
"""vCPUs with a mailbox."""

SIZE: Final = 0x8000
"""Bytes from the probe's base to the end of its own memory."""


CLOCK_INSTRUCTIONS: Final = 2
"""Instructions that read the counter: ISB and MRS."""

LPT_CLOCK_INSTRUCTIONS: Final = 16
"""Instructions that read Live Physical Time where no run begins meanwhile."""

ARGUMENTS: Final = 5
"""Arguments of a command, in X0 to X4; unused ones are 0."""

RESULTS: Final = 4
"""Results, from X0 to X3."""


class Command(IntEnum):
    """Commands to a vCPU; the source documents their arguments and results."""

    CALL = 0
    LOAD = 1
    STORE = 2
    FILL = 3
    COPY = 4
    COMPARE = 5
    SPIN = 6
    REST = 7
    EXECUTE = 8
    JUMP = 9
    LPT_READ = 10
    LPT_WATCH = 11
    CALLS = 12


class ProbeState(IntEnum):
    """A vCPU's state between two commands; ABSENT: it has never started."""

    ABSENT = 0
    POLLING = 1
    RESTING = 2


class Mailbox(ctypes.LittleEndianStructure):
    """A vCPU's mailbox: the host writes the first 64 bytes, the guest the second."""

    _pack_ = 1
    _fields_ = (
        ("asked", ctypes.c_uint64),
        ("command", ctypes.c_uint64),
        ("arguments", ctypes.c_uint64 * ARGUMENTS),
        ("padding", ctypes.c_uint64),
        ("answered", ctypes.c_uint64),
        ("fault", ctypes.c_uint64),
        ("results", ctypes.c_uint64 * RESULTS),
        ("state", ctypes.c_uint64),
        ("context", ctypes.c_uint64),
    )


FIRST_SPI: Final = 16
"""The SPI, counted from 0, that ends WFI on vCPU 0; the other vCPUs' follow. The serial ports use lower ones.
Only the first 16 vCPUs have one.

A vCPU neither takes nor acknowledges it: it is pending while its line is high, and a pending one ends WFI.
"""

BOXES: Final = [MAILBOXES + index * ctypes.sizeof(Mailbox) for index in range(MAX_PROBES)]
"""Bytes from the probe's base to each vCPU's mailbox."""
