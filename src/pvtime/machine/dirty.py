# SPDX-License-Identifier: GPL-2.0-or-later
"""Which of a guest's memory has changed since it was last sent."""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from pvtime.machine.memory import GuestMemory
from pvtime.machine.pages import BLOCK, Extent, touched

__all__ = ["Comparison", "DirtyTracker"]

_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class DirtyTracker(ABC):
    """Tells what of a machine's memory is to be sent to a peer, where at first all of it is zero."""

    @abstractmethod
    def changed(self) -> Iterator[tuple[int, memoryview]]:
        """Yield IPA and contents of what has changed since it was last yielded; exhaust it.

        The guest may run meanwhile: what it writes behind this is yielded the next time. The contents are
        good until then.
        """

    @abstractmethod
    def close(self) -> None:
        """Track no longer; harmless when repeated."""


class Comparison(DirtyTracker):
    """Compares memory with a copy of what was last yielded, which takes as much as the guest has touched.

    The kernel's own log of a process's writes (soft-dirty) is not built into every kernel.
    Measured on an idle Debian guest of 256 MB (2-core x86_64): 59 ms for the first 48 MiB, then 16 ms a
    round, in which up to 0.25 MiB had changed in 0.2 s.
    """

    def __init__(self, memories: Sequence[GuestMemory]) -> None:
        self._pairs = [
            (memory, GuestMemory(memory.base, memory.size, "what was sent")) for memory in memories
        ]

    def changed(self) -> Iterator[tuple[int, memoryview]]:
        """See :meth:`DirtyTracker.changed`."""
        for memory, sent in self._pairs:
            # Memory that was given back since (a reset) is zero now, and has still to be sent.
            for at, length in [*touched(memory), *touched(sent)]:
                for start, size in _differences(memory, sent, at, length):
                    ctypes.memmove(sent.address + start, memory.address + start, size)
                    yield memory.base + start, sent.view(sent.base + start, size)

    def close(self) -> None:
        """See :meth:`DirtyTracker.close`."""
        while self._pairs:
            self._pairs.pop()[1].close()


def _differences(one: GuestMemory, other: GuestMemory, at: int, length: int) -> Iterator[Extent]:
    """Yield where two regions differ between offsets ``at`` and ``at + length``: whole blocks, joined."""
    if not _differ(one, other, at, length):
        return
    begin = None
    for block in range(at, at + length, BLOCK):
        if _differ(one, other, block, BLOCK):
            begin = block if begin is None else begin
        elif begin is not None:
            yield begin, block - begin
            begin = None
    if begin is not None:
        yield begin, at + length - begin


def _differ(one: GuestMemory, other: GuestMemory, at: int, length: int) -> bool:
    return bool(_memcmp(one.address + at, other.address + at, length))
