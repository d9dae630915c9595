# SPDX-License-Identifier: GPL-2.0-or-later
"""Which guest physical addresses are memory, and what may be done there now."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from pvtime.errors import GuestMemoryError
from pvtime.machine.layout import Region, refuse_overlap
from pvtime.machine.memory import GuestMemory

__all__ = ["Access", "MemoryMap", "Window"]


class Access(IntEnum):
    """What a guest may do with memory; each includes the ones before it."""

    NONE = 0
    READ = 1
    WRITE = 2


class MemoryMap:
    """The guest's memory as memory slots are on KVM: what the VMM maps, and may take away again."""

    def __init__(self, fixed: Iterable[Region]) -> None:
        self._fixed = list(fixed)
        self._memories: list[GuestMemory] = []
        self._limits: list[tuple[Region, Access]] = []

    @property
    def memories(self) -> list[GuestMemory]:
        """All memory, whatever may be done with it now."""
        return list(self._memories)

    @property
    def restricted(self) -> list[Region]:
        """What was taken away or made read-only."""
        return [region for region, _ in self._limits]

    def add(self, memory: GuestMemory) -> GuestMemory:
        """Map memory; return it.

        :raises UsageError: it overlaps a device or other memory; the message names both.
        """
        refuse_overlap([*self._fixed, *(other.region for other in self._memories), memory.region])
        self._memories.append(memory)
        return memory

    def protect(self, region: Region, access: Access) -> None:
        """Take memory away, make it read-only, or give it back. Its contents stay."""
        self._limits = [(other, old) for other, old in self._limits if other != region]
        if access is not Access.WRITE:
            self._limits.append((region, access))

    def find(self, ipa: int, length: int, access: Access) -> GuestMemory:
        """Return the memory that holds these bytes.

        :raises GuestMemoryError: there is none, or it may not be used that way now.
        """
        wanted = Region("access", ipa, length)
        for region, granted in self._limits:
            if granted < access and region.overlaps(wanted):
                state = "read-only" if granted is Access.READ else "not mapped"
                raise GuestMemoryError(f"{length} bytes at {ipa:#x}: the memory is {state}")
        for memory in self._memories:
            if memory.base <= ipa and ipa + length <= memory.end:
                return memory
        raise GuestMemoryError(f"{length} bytes at {ipa:#x}: there is no memory")

    def clear(self) -> None:
        """Make all memory read as zero."""
        for memory in self._memories:
            memory.clear()

    def close(self) -> None:
        """Give the memory back to the host."""
        for memory in self._memories:
            memory.close()


class Window:
    """A region of the guest's memory, through the map: as put_user goes through memory slots on KVM."""

    def __init__(self, memories: MemoryMap, region: Region) -> None:
        self._map = memories
        self._region = region
        self.base = region.base
        self.size = region.size

    def load_u64(self, ipa: int) -> int:
        """Return a word.

        :raises GuestMemoryError: it is not in the region, or not mapped now.
        """
        return self._find(ipa, 8, Access.READ).load_u64(ipa)

    def store_u64(self, ipa: int, value: int) -> None:
        """Store a word.

        :raises GuestMemoryError: it is not in the region, not mapped or read-only now.
        """
        self._find(ipa, 8, Access.WRITE).store_u64(ipa, value)

    def read(self, ipa: int, length: int) -> bytes:
        """Return a copy.

        :raises GuestMemoryError: it is not in the region, or not mapped now.
        """
        return self._find(ipa, length, Access.READ).read(ipa, length)

    def write(self, ipa: int, data: bytes) -> None:
        """Store bytes.

        :raises GuestMemoryError: they are not in the region, not mapped or read-only now.
        """
        self._find(ipa, len(data), Access.WRITE).write(ipa, data)

    def refuse_unwritable(self, ipa: int, length: int) -> None:
        """Check that bytes can be written.

        :raises GuestMemoryError: they cannot.
        """
        self._find(ipa, length, Access.WRITE)

    def _find(self, ipa: int, length: int, access: Access) -> GuestMemory:
        if not self._region.base <= ipa <= self._region.end - length:
            raise GuestMemoryError(f"{length} bytes at {ipa:#x} are not in {self._region}")
        return self._map.find(ipa, length, access)
