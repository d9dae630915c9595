# SPDX-License-Identifier: GPL-2.0-or-later
"""The memory at guest physical addresses, and the guest's present access to it."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from weakref import WeakSet

from pvtime.errors import GuestMemoryError, UsageError
from pvtime.machine.layout import IPA_END, Region, refuse_overlap
from pvtime.machine.memory import GuestMemory

__all__ = ["Access", "MappedRegion", "MemoryMap"]


class Access(IntEnum):
    """A guest's rights to memory; each includes the ones before it."""

    NONE = 0
    READ = 1
    WRITE = 2


class MemoryMap:
    """The guest's memory as memory slots are on KVM: what the VMM maps, and may take away again."""

    def __init__(self, fixed: Iterable[Region]) -> None:
        self._fixed = list(fixed)
        self._memories: list[GuestMemory] = []
        self._vmm_memories: list[GuestMemory] = []
        self._bound: WeakSet[MappedRegion] = WeakSet()
        self._limits: list[tuple[Region, Access]] = []

    @property
    def memories(self) -> list[GuestMemory]:
        """All memory, whatever may be done with it now."""
        return list(self._memories)

    @property
    def vmm_memories(self) -> list[GuestMemory]:
        """The memory that the VMM provides, and has to save and to send."""
        return list(self._vmm_memories)

    @property
    def restricted(self) -> list[Region]:
        """Memory that was taken away or made read-only."""
        return [region for region, _ in self._limits]

    def allocate(self, base: int, size: int, name: str, *, vmm: bool = True) -> GuestMemory:
        """Allocate memory, map it at ``base``, and return it.

        :param vmm: the VMM provides it, and has to save and to send it.
        :raises UsageError: it overlaps a device or other memory, and the message names both; or it is not in
            the guest's address space.
        :raises GuestMemoryError: base or size is not a multiple of the host's page, or the host refuses.
        """
        region = Region(name, base, size)
        if base < 0 or region.end > IPA_END:
            raise UsageError(f"{region} is not in the guest's address space, which ends at {IPA_END:#x}")
        refuse_overlap([*self._fixed, *(other.region for other in self._memories), region])
        memory = GuestMemory(base, size, name)
        self._memories.append(memory)
        if vmm:
            self._vmm_memories.append(memory)
        return memory

    def bind(self, ipa: int, length: int) -> MappedRegion:
        """Return the bytes at ``ipa``, a multiple of 8 of them, for as long as the map exists.

        :raises GuestMemoryError: they are not in memory that can be written now.
        """
        memory = self.find(ipa, length, Access.WRITE)
        if (ipa | length) % 8:
            raise GuestMemoryError(f"{length} bytes at {ipa:#x} are not whole 64-bit words")
        bound = MappedRegion(Region(memory.region.name, ipa, length), memory)
        self._bound.add(bound)
        return bound

    def protect(self, region: Region, access: Access) -> None:
        """Take memory away, make it read-only, or give it back. Its contents stay."""
        self._limits = [(other, old) for other, old in self._limits if other != region]
        if access is not Access.WRITE:
            self._limits.append((region, access))
        for bound in self._bound:
            bound.unreadable = self._refusal(bound.region, Access.READ)
            bound.unwritable = self._refusal(bound.region, Access.WRITE)

    def find(self, ipa: int, length: int, access: Access) -> GuestMemory:
        """Return the memory that holds these bytes.

        :raises GuestMemoryError: there is none, or it may not be used that way now.
        """
        if (refusal := self._refusal(Region("access", ipa, length), access)) is not None:
            raise GuestMemoryError(f"{length} bytes at {ipa:#x}: {refusal}")
        for memory in self._memories:
            if memory.base <= ipa and ipa + length <= memory.end:
                return memory
        raise GuestMemoryError(f"{length} bytes at {ipa:#x}: there is no memory")

    def _refusal(self, wanted: Region, access: Access) -> str | None:
        """Return why memory that was protected may not be used that way now; None where it may."""
        for region, granted in self._limits:
            if granted < access and region.overlaps(wanted):
                return f"the memory is {'read-only' if granted is Access.READ else 'not mapped'}"
        return None

    def clear(self) -> None:
        """Make all memory read as zero."""
        for memory in self._memories:
            memory.clear()

    def close(self) -> None:
        """Give the memory back to the host."""
        for bound in self._bound:
            bound.release()
        for memory in self._memories:
            memory.close()


class MappedRegion:
    """Bytes of guest memory whose address was checked once: as put_user goes through memory slots on KVM.

    What may change later is whether the memory may be read and written now; the map keeps that up to date.
    """

    def __init__(self, region: Region, memory: GuestMemory) -> None:
        self.region = region
        self.bytes = memory.view(region.base, region.size)
        self.words = self.bytes.cast("Q")
        """Little-endian 64-bit words; a store to one is a single store."""
        self.unreadable: str | None = None
        """The reason why the memory cannot be read now; None: it can."""
        self.unwritable: str | None = None
        """The reason why the memory cannot be written now; None: it can."""

    def release(self) -> None:
        """Give the bytes back, before their memory is closed."""
        self.words.release()
        self.bytes.release()
