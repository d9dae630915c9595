# SPDX-License-Identifier: GPL-2.0-or-later
"""Placements: who provides the memory that stolen time is written to, and how it is written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import Enum
from typing import ClassVar, Protocol

from pvtime.abi.pvtime import STRUCTURE_ALIGN, STRUCTURE_STRIDE, StolenTime
from pvtime.errors import UsageError

__all__ = ["Hypervisor", "Memory", "Placement", "PlacementName", "Userspace"]

_EMPTY = bytes(StolenTime())


class PlacementName(Enum):
    """The three answers to the question who provides the memory."""

    USERSPACE = "userspace"
    """The VMM: merged into Linux 5.5."""
    HYPERVISOR = "hypervisor"
    """The hypervisor, behind a device (:mod:`pvtime.steal.device`): as first posted, in August 2019."""
    GUEST = "guest"
    """The guest gives it (:mod:`pvtime.steal.registered`): as on x86."""


class Memory(Protocol):
    """Memory that the guest sees, by its address there (IPA)."""

    @property
    def base(self) -> int:
        """First IPA."""

    @property
    def size(self) -> int:
        """Bytes."""

    def load_u64(self, ipa: int) -> int:
        """Return the little-endian word at ``ipa``.

        :raises GuestMemoryError: there is no memory now.
        """

    def store_u64(self, ipa: int, value: int) -> None:
        """Store a little-endian word at ``ipa`` in one access, so that a guest never sees half of it.

        :raises GuestMemoryError: there is no memory now, or it is read-only.
        """

    def write(self, ipa: int, data: bytes) -> None:
        """Copy ``data`` to ``ipa``.

        :raises GuestMemoryError: there is no memory now, or it is read-only.
        """


class Placement(ABC):
    """One vCPU's structure in the guest's memory."""

    name: ClassVar[PlacementName]

    @property
    @abstractmethod
    def ipa(self) -> int | None:
        """Where the guest finds the structure; None: there is none now."""

    @abstractmethod
    def reset(self) -> None:
        """Write an empty structure.

        :raises GuestMemoryError: the memory cannot be written now.
        """

    @abstractmethod
    def load(self) -> int:
        """Return the count, in ns, as the guest would read it.

        :raises GuestMemoryError: the memory cannot be read now.
        """

    @abstractmethod
    def store(self, stolen: int) -> None:
        """Write the count, in ns.

        :raises GuestMemoryError: the memory cannot be written now.
        """


class _Element(Placement):
    """An element of an array of DEN0057A's structures in a region of its own.

    :raises UsageError: the region is too small for that vCPU, or not aligned for the structure.
    """

    def __init__(self, memory: Memory, index: int) -> None:
        self._memory = memory
        self._ipa = memory.base + index * STRUCTURE_STRIDE
        self._count = self._ipa + StolenTime.stolen_time.offset
        if self._ipa % STRUCTURE_ALIGN:
            raise UsageError(f"stolen time at {self._ipa:#x}: it must be aligned to {STRUCTURE_ALIGN} bytes")
        if (index + 1) * STRUCTURE_STRIDE > memory.size:
            raise UsageError(f"stolen time of vCPU {index} does not fit into {memory.size} bytes")

    @property
    def ipa(self) -> int:
        """See :meth:`Placement.ipa`."""
        return self._ipa

    def reset(self) -> None:
        """See :meth:`Placement.reset`."""
        self._memory.write(self._ipa, _EMPTY)

    def load(self) -> int:
        """See :meth:`Placement.load`."""
        return self._memory.load_u64(self._count)

    def store(self, stolen: int) -> None:
        """See :meth:`Placement.store`."""
        self._memory.store_u64(self._count, stolen)


class Userspace(_Element):
    """Host user space provides the memory, and the hypervisor writes through the guest's memory map.

    This is the design that was merged (commit 58772e9a3db7). The guest's memory holds the only copy of the
    count, so it is saved and migrated with the rest.
    """

    name = PlacementName.USERSPACE


class Hypervisor(_Element):
    """The hypervisor provides the memory, and stores straight into it: nobody can take it away."""

    name = PlacementName.HYPERVISOR
