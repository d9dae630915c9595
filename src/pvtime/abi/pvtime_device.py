# SPDX-License-Identifier: GPL-2.0-or-later
"""The device of the first posted design, KVM_DEV_TYPE_ARM_PV_TIME (v1 of the patches, August 2019).

It was never merged. The posting does not define the layout of the state: this one is pvtime's.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum

__all__ = ["PAGE", "PvTimeGroup", "PvTimePaddr", "StateHeader"]

PAGE = 4096
"""Bytes; the base IPA is a multiple of this."""


class PvTimeGroup(IntEnum):
    """Attribute groups (KVM_DEV_ARM_PV_TIME_*)."""

    PADDR = 0
    STATE_SIZE = 1
    STATE = 2


class PvTimePaddr(IntEnum):
    """Attributes of the group PADDR: whose structures."""

    ST = 0


class StateHeader(ctypes.LittleEndianStructure):
    """Header of STATE, before the structures."""

    _pack_ = 1
    _fields_ = (
        ("base", ctypes.c_uint64),
        ("vcpus", ctypes.c_uint64),
    )
