# SPDX-License-Identifier: GPL-2.0-or-later
"""Paravirtualized time (Arm DEN0057A; the kernel's Documentation/virt/kvm/arm/pvtime.rst)."""

from __future__ import annotations

import ctypes
from enum import IntEnum

__all__ = [
    "LPT_OFFSET",
    "REGION_ALIGN",
    "STRUCTURE_ALIGN",
    "STRUCTURE_STRIDE",
    "LptStructure",
    "PvTime",
    "StolenTime",
]

STRUCTURE_ALIGN = 64
"""Bytes; a structure's IPA is a multiple of this."""

STRUCTURE_STRIDE = 64
"""Bytes from one vCPU's structure to the next: what every VMM that has them uses."""

REGION_ALIGN = 64 * 1024
"""Bytes; the region holds whole 64 KiB pages, the largest page that a guest maps with."""


LPT_OFFSET = 0x8000
"""Bytes from the region's base to the structure of Live Physical Time; the vCPUs' are before it."""


class PvTime(IntEnum):
    """Function identifiers; only the SMC64/HVC64 forms exist."""

    FEATURES = 0xC500_0020
    ST = 0xC500_0021
    LPT = 0xC500_0022
    """Live Physical Time, never merged: by the RFC of August 2020 (Documentation/virt/kvm/arm/pvtime.rst in
    it). In the patches of August 2019 PV_TIME_ST had this number."""


class StolenTime(ctypes.LittleEndianStructure):
    """The structure that PV_TIME_ST's answer points to: 16 bytes, then padding to 64.

    There is no sequence counter: ``stolen_time``, in ns, is one single-copy atomic 64-bit word.
    """

    _pack_ = 1
    _fields_ = (
        ("revision", ctypes.c_uint32),
        ("attributes", ctypes.c_uint32),
        ("stolen_time", ctypes.c_uint64),
        ("padding", ctypes.c_uint8 * 48),
    )


class LptStructure(ctypes.LittleEndianStructure):
    """The structure that PV_TIME_LPT's answer points to, one a machine: 48 bytes, then padding to 64.

    Never merged; the layout is that of the RFC of August 2020. A guest reads ``sequence_number`` before and
    after the other fields and the counter, and starts again where it has changed.
    """

    _pack_ = 1
    _fields_ = (
        ("revision", ctypes.c_uint32),
        ("attributes", ctypes.c_uint32),
        ("sequence_number", ctypes.c_uint64),
        ("native_freq", ctypes.c_uint32),
        ("pv_freq", ctypes.c_uint32),
        ("scale_mult", ctypes.c_uint64),
        ("rscale_mult", ctypes.c_uint64),
        ("fracbits", ctypes.c_uint32),
        ("rfracbits", ctypes.c_uint32),
        ("padding", ctypes.c_uint8 * 16),
    )
