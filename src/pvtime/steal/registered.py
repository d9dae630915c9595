# SPDX-License-Identifier: GPL-2.0-or-later
"""The placement ``guest``: each vCPU gives an address in its RAM, as on x86.

What is written, and in which order: record_steal_time in the kernel's arch/x86/kvm/x86.c.

Who comes first has it. A second one's address is refused until the first is disabled, and GET tells where the
first is: so firmware and kernel can arbitrate, and no structure is abandoned without anybody knowing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pvtime.abi.registration import PREEMPTED, KvmStealTime, RegisterResult, Registration
from pvtime.errors import GuestMemoryError
from pvtime.steal.placement import Memory, Placement, PlacementName

__all__ = ["Ram", "Registered"]

_SIZE = len(bytes(KvmStealTime()))
_VERSION = KvmStealTime.version.offset
_STEAL = KvmStealTime.steal.offset
_PREEMPTED = KvmStealTime.preempted.offset
_U32 = (1 << 32) - 1


class Ram(Memory, Protocol):
    """The guest's RAM, as it is mapped now."""

    def read(self, ipa: int, length: int) -> bytes:
        """Return a copy of what is there.

        :raises GuestMemoryError: there is no memory now.
        """

    def refuse_unwritable(self, ipa: int, length: int) -> None:
        """Check that the guest has writable RAM there.

        :raises GuestMemoryError: it has not.
        """


class Registered(Placement):
    """One vCPU's structure, wherever the guest has it.

    :param all_of_them: every vCPU's placement: no two may be in one place.
    """

    name = PlacementName.GUEST

    def __init__(self, ram: Ram, all_of_them: Sequence[Registered] = ()) -> None:
        self._ram = ram
        self._all = all_of_them
        self._ipa: int | None = None
        self._preempted = 0

    @property
    def ipa(self) -> int | None:
        """See :meth:`Placement.ipa`."""
        return self._ipa

    @property
    def registration(self) -> Registration:
        """What the guest has given."""
        return Registration(0 if self._ipa is None else self._ipa | 1)

    def check(self, registration: Registration) -> RegisterResult:
        """Return what SET answers to an address that is to be enabled."""
        ipa = int(registration.with_(enable=0))
        if self._ipa is not None:
            return RegisterResult.IN_USE
        if registration.reserved or ipa in (other.ipa for other in self._all):
            return RegisterResult.INVALID_PARAMETER
        try:
            self._ram.refuse_unwritable(ipa, _SIZE)
        except GuestMemoryError:
            return RegisterResult.INVALID_PARAMETER
        return RegisterResult.SUCCESS

    def give(self, registration: Registration) -> None:
        """Use an address that :meth:`check` found good; the vCPU is running."""
        self._preempted = 0
        self._ipa = int(registration.with_(enable=0))

    def disable(self) -> None:
        """Leave the guest's memory alone."""
        self._ipa = None

    def reset(self) -> None:
        """See :meth:`Placement.reset`."""
        self._ram.write(self._at(0), bytes(KvmStealTime()))

    def load(self) -> int:
        """See :meth:`Placement.load`."""
        return self._ram.load_u64(self._at(_STEAL))

    def store(self, stolen: int) -> None:
        """See :meth:`Placement.store`."""
        self._ram.write(self._at(_PREEMPTED), bytes([self._preempted]))
        version = self._version() | 1
        self._set_version(version)
        self._ram.store_u64(self._at(_STEAL), stolen)
        self._set_version(version + 1)

    def preempt(self) -> None:
        """Tell the other vCPUs that this one is kept from running (kvm_steal_time_set_preempted).

        :raises GuestMemoryError: the memory cannot be written now.
        """
        self._preempted = PREEMPTED
        self._ram.write(self._at(_PREEMPTED), bytes([PREEMPTED]))

    def run(self) -> None:
        """The vCPU is about to run: the next :meth:`store` says that it is not preempted any more."""
        self._preempted = 0

    def _version(self) -> int:
        return int.from_bytes(self._ram.read(self._at(_VERSION), 4), "little")

    def _set_version(self, version: int) -> None:
        self._ram.write(self._at(_VERSION), (version & _U32).to_bytes(4, "little"))

    def _at(self, offset: int) -> int:
        if self._ipa is None:
            raise GuestMemoryError("the guest has given no memory for its stolen time")
        return self._ipa + offset
