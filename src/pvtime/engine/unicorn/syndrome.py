# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a saved context holds the syndrome: found by a fault whose syndrome is known.

No public call returns the syndrome and the address of an exception that is about to be taken, but they are
in the bytes of a saved context, whose layout is the library's own.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Final

import unicorn
from unicorn import arm64_const as a64

from pvtime.abi.arm64 import Esr, ExceptionClass
from pvtime.engine.unicorn.internals import ExceptionState
from pvtime.errors import EngineError

__all__ = ["exception_offset"]

_CODE: Final = 0x1_0000
_LDXR_X0_X1: Final = 0xC85F_7C20
"""An exclusive load is checked for alignment whatever SCTLR_EL1 says."""
_MARKER: Final = _CODE + 0xA5B
"""Not a multiple of eight, so that reading a word there faults."""


@cache
def exception_offset() -> int:
    """Return where an :class:`ExceptionState` is in the bytes of a saved context.

    :raises EngineError: it is in none or in several places: an unknown build of the library.
    """
    uc = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM, a64.UC_CPU_ARM64_A72)
    uc.mem_map(_CODE, 0x1000)
    uc.mem_write(_CODE, _LDXR_X0_X1.to_bytes(4, "little"))
    uc.reg_write(a64.UC_ARM64_REG_X1, _MARKER)
    found: list[int] = []

    def on_fault(uc: unicorn.Uc, _number: int, _data: object) -> None:
        found.extend(_search(bytes(uc.context_save())))
        uc.emu_stop()

    uc.hook_add(unicorn.UC_HOOK_INTR, on_fault)
    uc.emu_start(_CODE, 0)
    if len(found) != 1:
        raise EngineError(
            f"this build of the Unicorn library has a fault's syndrome in {len(found)} places: install 2.1.4"
        )
    return found[0]


def _search(context: bytes) -> list[int]:
    size = ctypes.sizeof(ExceptionState)
    states = (
        (offset, ExceptionState.from_buffer_copy(context, offset))
        for offset in range(0, len(context) - size, 8)
    )
    return [
        offset
        for offset, state in states
        if (Esr(state.syndrome).ec, state.address, state.target_el) == (ExceptionClass.DATA_ABORT, _MARKER, 1)
    ]
