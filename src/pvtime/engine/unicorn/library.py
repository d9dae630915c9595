# SPDX-License-Identifier: GPL-2.0-or-later
"""The parts of the Unicorn library that the engine calls without the binding's wrappers.

The binding wraps each callback in three Python frames and each register access in an object of its own;
a guest that boots takes some 10^5 exceptions and device accesses.
"""

from __future__ import annotations

import ctypes
from typing import Final, cast

from unicorn.unicorn_py3.unicorn import uclib

__all__ = [
    "EXCEPTION_CALLBACK",
    "LIBRARY",
    "MMIO_READ_CALLBACK",
    "MMIO_WRITE_CALLBACK",
    "RUN_FOREVER",
    "UNMAPPED_CALLBACK",
]

LIBRARY: Final = cast(ctypes.CDLL, uclib)

EXCEPTION_CALLBACK: Final = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)
"""(uc, exception number, user data), for UC_HOOK_INTR."""

MMIO_READ_CALLBACK: Final = ctypes.CFUNCTYPE(
    ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint, ctypes.c_void_p
)
"""(uc, offset, size, user data) -> value."""

MMIO_WRITE_CALLBACK: Final = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint, ctypes.c_uint64, ctypes.c_void_p
)
"""(uc, offset, size, value, user data)."""

UNMAPPED_CALLBACK: Final = ctypes.CFUNCTYPE(
    ctypes.c_bool,
    ctypes.c_void_p,
    ctypes.c_int,
    ctypes.c_uint64,
    ctypes.c_int,
    ctypes.c_int64,
    ctypes.c_void_p,
)
"""(uc, access, address, size, value, user data) -> handled, for UC_HOOK_MEM_*_UNMAPPED."""

RUN_FOREVER: Final = 0
"""uc_emu_start's ``until``: not looked at once exits are enabled and none is set."""
