# SPDX-License-Identifier: GPL-2.0-or-later
"""One vCPU's structure in guest memory: what is in it, and the store that writes stolen time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Protocol

from pvtime.abi.pvtime import STRUCTURE_ALIGN, STRUCTURE_STRIDE, PvTime, StolenTime
from pvtime.abi.registration import RegisterResult, Registration
from pvtime.errors import GuestMemoryError, UsageError

__all__ = [
    "CheckedStructure",
    "GuestMap",
    "MappedBytes",
    "StolenTimeStructure",
    "StraightStructure",
    "Structure",
    "VmmStructure",
]

_EMPTY = bytes(StolenTime())
_STOLEN_TIME = StolenTime.stolen_time.offset // 8
"""Index of the count among the structure's 64-bit words."""
_LAST_WORD = STRUCTURE_STRIDE // 8 - 1


class MappedBytes(Protocol):
    """Bytes of guest memory whose address was checked when they were bound."""

    @property
    def bytes(self) -> memoryview:
        """The bytes themselves."""

    @property
    def words(self) -> memoryview:
        """The same as little-endian 64-bit words; a store to one is a single store."""

    @property
    def unreadable(self) -> str | None:
        """The reason why the memory cannot be read now; None: it can."""

    @property
    def unwritable(self) -> str | None:
        """The reason why the memory cannot be written now; None: it can."""


class GuestMap(Protocol):
    """The guest's memory map, as a placement uses it."""

    def allocate(self, base: int, size: int, name: str, *, vmm: bool) -> object:
        """Allocate memory and map it at ``base``.

        :param vmm: it is the VMM's own memory, which is saved and sent with the rest.
        :raises UsageError: it overlaps another region; the message names both.
        """

    def bind(self, ipa: int, length: int) -> MappedBytes:
        """Return the bytes at ``ipa``, for as long as the map exists.

        :raises GuestMemoryError: they are not in memory that can be written now.
        """


class Structure(ABC):
    """One vCPU's structure, as the account uses it.

    The hooks, ``on_*`` and :meth:`register`, are for memory that the guest itself provides; they do nothing
    elsewhere.
    """

    calls: ClassVar[frozenset[int]] = frozenset({PvTime.FEATURES, PvTime.ST})
    """The service calls that the guest is offered to find the structure."""

    @property
    @abstractmethod
    def ipa(self) -> int | None:
        """The address at which the guest finds the structure; None: it has none now."""

    @abstractmethod
    def clear(self) -> None:
        """Write an empty structure.

        :raises GuestMemoryError: the memory cannot be written now.
        """

    @abstractmethod
    def load(self) -> int:
        """Return the count, in ns, as the guest reads it.

        :raises GuestMemoryError: the memory cannot be read now.
        """

    @abstractmethod
    def store(self, stolen: int) -> None:
        """Write the count, in ns.

        :raises GuestMemoryError: the memory cannot be written now.
        """

    @property
    def registration(self) -> Registration:
        """The address that the guest has registered; 0 where it does not register any."""
        return Registration(0)

    def register(self, registration: Registration) -> RegisterResult:
        """Use the address that the guest registers, or with a clear enable bit none any more."""
        return RegisterResult.NOT_SUPPORTED

    def on_load(self) -> None:
        """Note that the vCPU is about to run."""

    def on_preempt(self) -> None:
        """Tell the guest that the vCPU is kept from running.

        :raises GuestMemoryError: the memory cannot be written now.
        """

    def on_fault(self) -> None:
        """Note that a write has failed."""

    def on_power_off(self) -> None:
        """Note that the vCPU is switched off, or the machine reset."""


class StolenTimeStructure(Structure):
    """DEN0057A's structure, one of an array that begins at ``base``.

    :raises UsageError: its address is not aligned for the structure.
    :raises GuestMemoryError: it is not in memory.
    """

    def __init__(self, guest: GuestMap, base: int, index: int) -> None:
        self._ipa = base + index * STRUCTURE_STRIDE
        if self._ipa % STRUCTURE_ALIGN:
            raise UsageError(f"stolen time at {self._ipa:#x}: it must be aligned to {STRUCTURE_ALIGN} bytes")
        self._mapped = guest.bind(self._ipa, STRUCTURE_STRIDE)
        self.words = self._mapped.words
        """The structure and its padding, as 64-bit words."""

    @property
    def ipa(self) -> int:
        """The structure's address; the guest asks for it by PV_TIME_ST."""
        return self._ipa

    @property
    def unreadable(self) -> str | None:
        """The reason why the guest cannot read the structure now; None: it can."""
        return self._mapped.unreadable

    @property
    def unwritable(self) -> str | None:
        """The reason why the structure cannot be written now; None: it can."""
        return self._mapped.unwritable

    @property
    def last_word(self) -> int:
        """The last 64 bits of the padding, which the specification does not use."""
        return int(self.words[_LAST_WORD])

    @last_word.setter
    def last_word(self, value: int) -> None:
        self.words[_LAST_WORD] = value

    def clear(self) -> None:
        if self._mapped.unwritable is not None:
            raise GuestMemoryError(self._mapped.unwritable)
        self._mapped.bytes[:] = _EMPTY

    def load(self) -> int:
        if self._mapped.unreadable is not None:
            raise GuestMemoryError(self._mapped.unreadable)
        return int(self.words[_STOLEN_TIME])


class CheckedStructure(StolenTimeStructure):
    """A structure that is written through the guest's memory map, as put_user goes through memory slots.

    Its address is checked once. What may change is whether the VMM has taken the memory away.
    """

    def store(self, stolen: int) -> None:
        if self._mapped.unwritable is not None:
            raise GuestMemoryError(self._mapped.unwritable)
        self.words[_STOLEN_TIME] = stolen


class VmmStructure(StolenTimeStructure):
    """A structure in the VMM's memory as the VMM itself has it, whatever guest and kernel may do with it."""

    def load(self) -> int:
        return int(self.words[_STOLEN_TIME])

    def store(self, stolen: int) -> None:
        self.words[_STOLEN_TIME] = stolen


class StraightStructure(VmmStructure):
    """A structure in the memory of the hypervisor that writes it, from whom nobody can take it away."""

    @property
    def unreadable(self) -> None:
        """Its owner can always read it."""

    @property
    def unwritable(self) -> None:
        """Its owner can always write it."""
