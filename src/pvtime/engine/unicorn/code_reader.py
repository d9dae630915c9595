# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's instructions at a virtual address, read while it does not execute or in a callback."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Final

import unicorn
from unicorn import unicorn_const as uc_const

from pvtime.engine.unicorn.uclib import LIBRARY
from pvtime.machine.memory import GuestMemory

__all__ = ["CodeReader"]

_PAGE: Final = 0x1000

_WAITS: Final = tuple(word.to_bytes(4, "little") for word in (0xD503_205F, 0xD503_203F))
"""WFE and YIELD, which a kernel executes while it waits for another CPU (arm64's __cmpwait and cpu_relax)."""
_BEFORE, _BEHIND = 12, 24
"""Bytes around an address in which such an instruction makes it a waiting loop."""


class CodeReader:
    """Reads the instructions of one CPU.

    :param memories: the guest's memory.
    """

    def __init__(self, uc: unicorn.Uc, memories: Sequence[GuestMemory]) -> None:
        self._handle = uc._uch
        self._memories = [(memory.base, memory.end, memory.address - memory.base) for memory in memories]
        self._translate = LIBRARY.uc_vmem_translate
        self._translate.argtypes = (ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int, ctypes.c_void_p)
        self._physical = ctypes.c_uint64()
        self._result = ctypes.byref(self._physical)

    def word(self, pc: int) -> int | None:
        """Return the instruction at ``pc``; None: there is none."""
        address = self._address(pc)
        return None if address is None else ctypes.c_uint32.from_address(address).value

    def waits(self, pc: int) -> bool:
        """Whether ``pc`` is in a loop that waits for another CPU, by the instructions around it."""
        address = self._address(pc)
        if address is None:
            return False
        before, behind = min(_BEFORE, pc % _PAGE), min(_BEHIND, _PAGE - pc % _PAGE)
        code = ctypes.string_at(address - before, before + behind)
        return any(word in code for word in _WAITS)

    def _address(self, pc: int) -> int | None:
        """Return where the host has an instruction; None: it is not in the guest's memory."""
        if pc % 4 or self._translate(self._handle, pc, uc_const.UC_PROT_EXEC, self._result):
            return None
        physical = self._physical.value
        for base, end, offset in self._memories:
            if base <= physical < end:
                return physical + offset
        return None
