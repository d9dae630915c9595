# SPDX-License-Identifier: GPL-2.0-or-later
"""The placement ``guest``: each vCPU registers an address in its RAM, as on x86.

What is written, and in which order: record_steal_time in the kernel's arch/x86/kvm/x86.c.

The first consumer keeps the registration. A second one's address is refused until the first is disabled, and
GET tells where the first is: so firmware and kernel can arbitrate, and no structure is abandoned unnoticed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol

from pvtime.abi.layout import U32_MAX
from pvtime.abi.pvtime import STRUCTURE_STRIDE
from pvtime.abi.registration import PREEMPTED, KvmStealTime, RegisterCall, RegisterResult, Registration
from pvtime.errors import GuestMemoryError
from pvtime.steal.live_physical_time import LptMemory
from pvtime.steal.placement import Placement, PlacementName
from pvtime.steal.structure import GuestMap, MappedBytes, Structure

__all__ = ["GuestPlacement", "KvmRegisteredStructure", "RegisteredLpt", "RegisteredStructure"]

_EMPTY = bytes(KvmStealTime())
_STEAL = KvmStealTime.steal.offset // 8
"""Index among the structure's 64-bit words."""
_VERSION = slice(KvmStealTime.version.offset, KvmStealTime.version.offset + KvmStealTime.version.size)
_PREEMPTED = KvmStealTime.preempted.offset


class Registered(Protocol):
    """A structure in the guest's memory."""

    @property
    def ipa(self) -> int | None:
        """The registered address; None: the guest has registered none."""


class _RegisteredMemory:
    """Memory for one structure of :data:`STRUCTURE_STRIDE` bytes, wherever the guest has registered it.

    :param siblings: the machine's structures: no two may be at one address.
    """

    use: ClassVar[str]
    """Use of the memory, for messages."""

    def __init__(self, guest: GuestMap, siblings: Sequence[Registered]) -> None:
        self._guest = guest
        self._siblings = siblings
        self._ipa: int | None = None
        self._mapped: MappedBytes | None = None

    @property
    def ipa(self) -> int | None:
        """The registered address; None: the guest has registered none."""
        return self._ipa

    @property
    def registration(self) -> Registration:
        return Registration(0 if self._ipa is None else self._ipa | 1)

    def register(self, registration: Registration) -> RegisterResult:
        if not registration.enable:
            self._ipa = self._mapped = None
            return RegisterResult.SUCCESS
        if self._ipa is not None:
            return RegisterResult.IN_USE
        ipa = int(registration.with_(enable=0))
        if registration.reserved or ipa in (sibling.ipa for sibling in self._siblings):
            return RegisterResult.INVALID_PARAMETER
        try:
            self._mapped = self._guest.bind(ipa, STRUCTURE_STRIDE)
        except GuestMemoryError:
            return RegisterResult.INVALID_PARAMETER
        self._ipa = ipa
        return RegisterResult.SUCCESS

    def _writable(self) -> MappedBytes:
        if self._mapped is None:
            raise GuestMemoryError(f"the guest has registered no memory for {self.use}")
        if self._mapped.unwritable is not None:
            raise GuestMemoryError(self._mapped.unwritable)
        return self._mapped


class RegisteredStructure(_RegisteredMemory, Structure):
    """One vCPU's structure, wherever the guest has registered it."""

    calls = frozenset(RegisterCall)
    use = "its stolen time"

    def __init__(self, guest: GuestMap, siblings: Sequence[Registered]) -> None:
        super().__init__(guest, siblings)
        self._preempted = 0

    def register(self, registration: Registration) -> RegisterResult:
        result = super().register(registration)
        if result is RegisterResult.SUCCESS:
            self._preempted = 0
        return result

    def clear(self) -> None:
        self._writable().bytes[:] = _EMPTY

    def load(self) -> int:
        if self._mapped is None or self._mapped.unreadable is not None:
            raise GuestMemoryError("the guest's memory for its stolen time cannot be read")
        return int(self._mapped.words[_STEAL])

    def store(self, stolen: int) -> None:
        mapped = self._writable()
        mapped.bytes[_PREEMPTED] = self._preempted
        version = int.from_bytes(mapped.bytes[_VERSION], "little") | 1
        mapped.bytes[_VERSION] = version.to_bytes(4, "little")
        mapped.words[_STEAL] = stolen
        mapped.bytes[_VERSION] = ((version + 1) & U32_MAX).to_bytes(4, "little")

    def on_load(self) -> None:
        """Have the next :meth:`store` say that the vCPU is not preempted any more."""
        self._preempted = 0

    def on_preempt(self) -> None:
        """Tell the other vCPUs that this one is kept from running (kvm_steal_time_set_preempted)."""
        if self._mapped is not None:
            self._preempted = PREEMPTED
            self._writable().bytes[_PREEMPTED] = PREEMPTED

    def on_fault(self) -> None:
        """Forget the address: the guest has lost the memory that it had registered."""
        self.register(Registration(0))

    def on_power_off(self) -> None:
        """Leave the guest's memory alone."""
        self.register(Registration(0))


class RegisteredLpt(_RegisteredMemory, LptMemory):
    """The structure of Live Physical Time, wherever the guest has registered it."""

    guest_provides = True
    use = "Live Physical Time"

    def write(self, structure: bytes) -> None:
        self._writable().bytes[:] = structure


class KvmRegisteredStructure:
    """The same where the kernel writes it, as the VMM has it.

    :param registered: returns what the guest has registered.
    """

    def __init__(self, guest: GuestMap, registered: Callable[[], Registration]) -> None:
        self._guest = guest
        self._registered = registered
        self._bound: tuple[int, MappedBytes] | None = None

    @property
    def ipa(self) -> int | None:
        """The registered address; None: the guest has registered none."""
        registration = self._registered()
        return int(registration.with_(enable=0)) if registration.enable else None

    @property
    def unreadable(self) -> str | None:
        """The reason why the guest cannot read it now; None: it can."""
        try:
            return self._mapped().unreadable
        except GuestMemoryError as error:
            return str(error)

    @property
    def unwritable(self) -> str | None:
        """The reason why the kernel cannot write it now; None: it can, or there is no address."""
        if self.ipa is None:
            return None
        try:
            return self._mapped().unwritable
        except GuestMemoryError as error:
            return str(error)

    def load(self) -> int:
        """Return the count, in ns."""
        return int(self._mapped().words[_STEAL])

    def store(self, stolen: int) -> None:
        """Write the count, in ns, while the vCPU does not run: nobody reads a half of it."""
        self._mapped().words[_STEAL] = stolen

    def _mapped(self) -> MappedBytes:
        """Return the bytes at the address, which there is now.

        :raises GuestMemoryError: they have been taken away since the kernel checked them.
        """
        ipa = self.ipa
        assert ipa is not None, "its user asks for the address first"
        if self._bound is None or self._bound[0] != ipa:
            self._bound = ipa, self._guest.bind(ipa, len(_EMPTY))
        return self._bound[1]


class GuestPlacement(Placement):
    """The guest provides the memory: in its RAM, which is saved with the rest."""

    name = PlacementName.GUEST

    def __init__(self, guest: GuestMap, vcpus: int) -> None:
        self._guest = guest
        self._registered: list[Registered] = []
        self._structures = [RegisteredStructure(guest, self._registered) for _ in range(vcpus)]
        self._lpt = RegisteredLpt(guest, self._registered)
        self._registered += [*self._structures, self._lpt]

    def structure(self, index: int) -> RegisteredStructure:
        return self._structures[index]

    def lpt(self) -> RegisteredLpt:
        return self._lpt

    def own_structure(self, registered: Callable[[], Registration]) -> KvmRegisteredStructure:
        """Return a vCPU's structure as the VMM has it, where the kernel is the hypervisor."""
        return KvmRegisteredStructure(self._guest, registered)
