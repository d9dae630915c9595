# SPDX-License-Identifier: GPL-2.0-or-later
"""kvm_run as the exit path reads it.

Indexing a memoryview takes a third of the time of a ctypes field (CPython 3.11), and this is read at every
exit, with the interpreter's lock held. What is seldom read goes through :attr:`Vcpu.run_page`.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Final

from pvtime.abi.kvm_run import KvmRun, Mmio

__all__ = ["RunPage"]

_DETAIL: Final = KvmRun.detail.offset
_IMMEDIATE_EXIT: Final = KvmRun.immediate_exit.offset
_EXIT_REASON: Final = KvmRun.exit_reason.offset // 4
_ADDRESS: Final = (_DETAIL + Mmio.phys_addr.offset) // 8
_DATA: Final = (_DETAIL + Mmio.data.offset) // 8
_LENGTH: Final = (_DETAIL + Mmio.len.offset) // 4
_IS_WRITE: Final = _DETAIL + Mmio.is_write.offset
_MASKS: Final = {size: (1 << 8 * size) - 1 for size in (1, 2, 4, 8)}


class RunPage:
    """A vCPU's shared page."""

    def __init__(self, mapping: mmap.mmap) -> None:
        self._bytes = memoryview(mapping)[: ctypes.sizeof(KvmRun)]
        self._words = self._bytes.cast("I")
        self._quads = self._bytes.cast("Q")

    def exit_reason(self) -> int:
        """Return why KVM_RUN returned."""
        return self._words[_EXIT_REASON]

    def mmio(self) -> tuple[int, int, int | None]:
        """Return address, size in bytes, and the value that the guest writes; None where it reads."""
        words, quads = self._words, self._quads
        length = words[_LENGTH]
        if self._bytes[_IS_WRITE]:
            return quads[_ADDRESS], length, quads[_DATA] & _MASKS[length]
        return quads[_ADDRESS], length, None

    def answer(self, value: int) -> None:
        """Set what the guest reads; KVM takes it at the next entry."""
        self._quads[_DATA] = value

    def set_immediate_exit(self, on: bool) -> None:
        """Have the next KVM_RUN return at once, or not. Callable from any thread."""
        self._bytes[_IMMEDIATE_EXIT] = on

    def close(self) -> None:
        """Let go of the mapping."""
        self._words.release()
        self._quads.release()
        self._bytes.release()
