# SPDX-License-Identifier: GPL-2.0-or-later
"""Placements: who provides the memory that stolen time is written to, and how it is written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Protocol

from pvtime.abi.pvtime import STRUCTURE_ALIGN, STRUCTURE_STRIDE, StolenTime
from pvtime.errors import UsageError

__all__ = ["Memory", "Placement", "Userspace"]

_EMPTY = bytes(StolenTime())


class Memory(Protocol):
    """Memory that the guest sees, by its address there (IPA)."""

    @property
    def base(self) -> int:
        """First IPA."""

    @property
    def size(self) -> int:
        """Bytes."""

    def load_u64(self, ipa: int) -> int:
        """Return the little-endian word at ``ipa``."""

    def store_u64(self, ipa: int, value: int) -> None:
        """Store a little-endian word at ``ipa`` in one access, so that a guest never sees half of it."""

    def write(self, ipa: int, data: bytes) -> None:
        """Copy ``data`` to ``ipa``."""


class Placement(ABC):
    """One vCPU's structure in the guest's memory."""

    name: ClassVar[str]
    ipa: int
    """Where the guest finds the structure."""

    @abstractmethod
    def reset(self) -> None:
        """Write an empty structure: revision, attributes and stolen time are 0."""

    @abstractmethod
    def load(self) -> int:
        """Return ``stolen_time``, in ns, as the guest would read it."""

    @abstractmethod
    def store(self, stolen: int) -> None:
        """Write ``stolen_time``, in ns."""


class Userspace(Placement):
    """Host user space provides the memory: an array of structures in a region of its own.

    This is the design that was merged into Linux 5.5 (commit 58772e9a3db7). The guest's memory holds the
    only copy of the count, so it is saved and migrated with the rest.

    :raises UsageError: the region is too small for that vCPU, or not aligned for the structure.
    """

    name = "userspace"

    def __init__(self, memory: Memory, index: int) -> None:
        self._memory = memory
        self.ipa = memory.base + index * STRUCTURE_STRIDE
        self._count = self.ipa + StolenTime.stolen_time.offset
        if self.ipa % STRUCTURE_ALIGN:
            raise UsageError(f"stolen time at {self.ipa:#x}: it must be aligned to {STRUCTURE_ALIGN} bytes")
        if (index + 1) * STRUCTURE_STRIDE > memory.size:
            raise UsageError(f"stolen time of vCPU {index} does not fit into {memory.size} bytes")

    def reset(self) -> None:
        """See :meth:`Placement.reset`."""
        self._memory.write(self.ipa, _EMPTY)

    def load(self) -> int:
        """See :meth:`Placement.load`."""
        return self._memory.load_u64(self._count)

    def store(self, stolen: int) -> None:
        """See :meth:`Placement.store`."""
        self._memory.store_u64(self._count, stolen)
