# SPDX-License-Identifier: GPL-2.0-or-later
"""kvm_run as the exit path reads it.

Indexing a memoryview takes a third of the time of a ctypes field (CPython 3.11), and this is read at every
exit, with the interpreter's lock held. So the loop of the vCPU's thread indexes the views by itself; what is
seldom read goes through :attr:`Vcpu.run_page`.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Final

from pvtime.abi.kvm_run import KvmRun, Mmio

__all__ = ["ADDRESS", "DATA", "EXIT_REASON", "IS_WRITE", "LENGTH", "RunPage"]

_DETAIL: Final = KvmRun.detail.offset
_IMMEDIATE_EXIT: Final = KvmRun.immediate_exit.offset

EXIT_REASON: Final = KvmRun.exit_reason.offset // 4
"""Index into :attr:`RunPage.words`."""
LENGTH: Final = (_DETAIL + Mmio.len.offset) // 4
"""Index into :attr:`RunPage.words`: of an MMIO access, in bytes."""
ADDRESS: Final = (_DETAIL + Mmio.phys_addr.offset) // 8
"""Index into :attr:`RunPage.quads`."""
DATA: Final = (_DETAIL + Mmio.data.offset) // 8
"""Index into :attr:`RunPage.quads`: what the guest writes, or is to read; KVM takes it at the next entry."""
IS_WRITE: Final = _DETAIL + Mmio.is_write.offset
"""Index into :attr:`RunPage.bytes`."""

_MASKS: Final = {size: (1 << 8 * size) - 1 for size in (1, 2, 4, 8)}


class RunPage:
    """A vCPU's shared page, as bytes, 32-bit words and 64-bit words."""

    def __init__(self, mapping: mmap.mmap) -> None:
        self.bytes = memoryview(mapping)[: ctypes.sizeof(KvmRun)]
        self.words = self.bytes.cast("I")
        self.quads = self.bytes.cast("Q")

    def written(self) -> tuple[int, int, int]:
        """Return address, size in bytes and value of what the guest writes."""
        length = self.words[LENGTH]
        return self.quads[ADDRESS], length, self.quads[DATA] & _MASKS[length]

    def set_immediate_exit(self, on: bool) -> None:
        """Have the next KVM_RUN return at once, or not. Callable from any thread."""
        self.bytes[_IMMEDIATE_EXIT] = on

    def close(self) -> None:
        """Let go of the mapping."""
        self.words.release()
        self.quads.release()
        self.bytes.release()
