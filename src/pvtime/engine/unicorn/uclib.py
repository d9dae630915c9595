# SPDX-License-Identifier: GPL-2.0-or-later
"""The parts of the Unicorn library that the engine calls without the binding's wrappers.

The binding wraps each callback in three Python frames and each register access in an object of its own;
a guest that boots takes 2 000 exceptions and 26 000 device accesses.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum
from typing import Any, Final, cast

from unicorn.unicorn_py3.unicorn import uclib

from pvtime.errors import EngineError

__all__ = [
    "BLOCK_CALLBACK",
    "EXCEPTION_CALLBACK",
    "LIBRARY",
    "MMIO_READ_CALLBACK",
    "MMIO_WRITE_CALLBACK",
    "RUN_FOREVER",
    "ExceptionNumber",
    "add_hook",
]

LIBRARY: Final = cast(ctypes.CDLL, uclib)

BLOCK_CALLBACK: Final = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_void_p
)
"""(uc, address, size, user data), for UC_HOOK_BLOCK."""

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

RUN_FOREVER: Final = 0
"""uc_emu_start's ``until``: not looked at once exits are enabled and none is set."""


class ExceptionNumber(IntEnum):
    """The library's exception numbers (QEMU's target/arm/cpu.h, EXCP_*)."""

    UNDEFINED = 1
    PREFETCH_ABORT = 3
    DATA_ABORT = 4
    IRQ = 5
    HVC = 11
    SMC = 13


def add_hook(
    handle: ctypes.c_void_p, kind: int, function: Any, data: int = 0, instruction: int | None = None
) -> ctypes.c_size_t:
    """Have the library call ``function``, a C function or a callback that the caller keeps, everywhere.

    :param function: or its address.
    :param data: a pointer that it gets as its last argument.
    :param instruction: with UC_HOOK_INSN, which one.
    :return: the hook, for uc_hook_del.
    :raises EngineError: the library refuses.
    """
    hook = ctypes.c_size_t()
    everywhere = ctypes.c_uint64(1), ctypes.c_uint64(0)
    code = ctypes.cast(function, ctypes.c_void_p)
    pointer = ctypes.c_void_p(data)
    more = () if instruction is None else (ctypes.c_int(instruction),)
    status = LIBRARY.uc_hook_add(handle, ctypes.byref(hook), kind, code, pointer, *everywhere, *more)
    if status:
        raise EngineError(f"the Unicorn library refuses a hook: error {status}")
    return hook
