# SPDX-License-Identifier: GPL-2.0-or-later
"""Offsets of the syndrome and of the execution state in a saved context, found by a fault that is known.

No public call returns the syndrome and the address of an exception that is about to be taken, nor whether the
CPU is in AArch32 state, but they are in the bytes of a saved context, whose layout is the library's own.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Final, TypeVar

import unicorn
from unicorn import arm64_const as a64

from pvtime.abi.arm64 import Esr, ExceptionClass, ExceptionLevel, Pstate
from pvtime.engine.unicorn.internals import ExceptionState, ExecutionState
from pvtime.engine.unicorn.making import alone
from pvtime.errors import EngineError
from pvtime.records import dataclass

__all__ = ["ContextLayout", "context_layout"]

S = TypeVar("S", bound=ctypes.Structure)

_CODE: Final = 0x1_0000
_LDXR_X0_X1: Final = 0xC85F_7C20
"""An exclusive load is checked for alignment whatever SCTLR_EL1 says."""
_MARKER: Final = _CODE + 0xA5B
"""Not a multiple of eight, so that reading a word there faults."""


@dataclass(frozen=True)
class ContextLayout:
    """Offsets in the bytes of a saved context."""

    exception: int
    """:class:`ExceptionState`."""
    execution: int
    """:class:`ExecutionState`."""


@cache
def context_layout() -> ContextLayout:
    """Find what a fault leaves in a saved context.

    :raises EngineError: it is in none or in several places: an unknown build of the library.
    """
    with alone():
        uc = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM, a64.UC_CPU_ARM64_A72)
        uc.mem_map(_CODE, 0x1000)
    uc.mem_write(_CODE, _LDXR_X0_X1.to_bytes(4, "little"))
    uc.reg_write(a64.UC_ARM64_REG_X1, _MARKER)
    contexts: list[bytes] = []

    def on_fault(uc: unicorn.Uc, _number: int, _data: object) -> None:
        contexts.append(bytes(uc.context_save()))
        uc.emu_stop()

    uc.hook_add(unicorn.UC_HOOK_INTR, on_fault)
    uc.emu_start(_CODE, 0)
    exceptions = _search(contexts[0], ExceptionState, _is_the_fault)
    executions = _search(contexts[0], ExecutionState, _is_the_program)
    if (len(exceptions), len(executions)) != (1, 1):
        raise EngineError(
            f"this build of the Unicorn library has a fault in {len(exceptions)} places, its address "
            f"in {len(executions)}: install 2.1.4"
        )
    return ContextLayout(exceptions[0], executions[0])


def _is_the_fault(state: ExceptionState) -> bool:
    return (Esr(state.syndrome).ec, state.address, state.target_el) == (ExceptionClass.DATA_ABORT, _MARKER, 1)


def _is_the_program(state: ExecutionState) -> bool:
    return (state.pc, state.aarch64) == (_CODE, 1) and Pstate(state.pstate).level == ExceptionLevel.EL1


def _search(context: bytes, kind: type[S], wanted: Callable[[S], bool]) -> list[int]:
    offsets = range(0, len(context) - ctypes.sizeof(kind), 8)
    return [offset for offset in offsets if wanted(kind.from_buffer_copy(context, offset))]
