# SPDX-License-Identifier: GPL-2.0-or-later
"""Live Physical Time: a counter that keeps its frequency where the host's has another. Never merged.

The rules are those of the patches "KVM: arm64: Add pvtime LPT support" (RFC of August 2020), but for three
that were found wanting (docs/lpt.md):

- A move never takes LPT back. The patches round the new counter down, which takes it back by up to a tick of
  the slower counter.
- The counter is rebased for a guest that has asked for LPT only. The others' clocks go on from the same tick.
- The hypervisor keeps the frequency and the sequence number itself, and never reads the guest's structure.

Frequencies are in Hz.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, Final

from pvtime.abi.layout import U64_MAX
from pvtime.abi.pvtime import LPT_OFFSET, STRUCTURE_STRIDE, LptStructure, PvTime
from pvtime.abi.registration import RegisterResult, Registration
from pvtime.abi.smccc import NOT_SUPPORTED
from pvtime.errors import GuestMemoryError
from pvtime.records import dataclass
from pvtime.schema import U64, bits
from pvtime.steal.structure import GuestMap

__all__ = [
    "FixedPoint",
    "LivePhysicalTime",
    "LptMemory",
    "LptState",
    "MappedLpt",
    "rebase",
    "scale",
]

_NEVER: Final = 1 << 63
"""Ticks; a compare value from here on is never met, at any frequency."""


@dataclass(frozen=True)
class FixedPoint:
    """A factor with 64 bits, of which ``fracbits``, 1 to 63, are behind the point."""

    mult: int
    fracbits: int

    def apply(self, ticks: int) -> int:
        """Return the product, rounded down; the guest computes it in 128 bits."""
        return self.mult * ticks >> self.fracbits

    def first(self, product: int) -> int:
        """Return the least number whose product is ``product`` or more."""
        return -(-(product << self.fracbits) // self.mult)


def scale(to_hz: int, from_hz: int) -> FixedPoint:
    """Return the factor from ticks of one frequency to ticks of another (pvclock_lpt_update_structure).

    Its error is less than 2^-fracbits, so that of n ticks' product is less than n / 2^fracbits, and 1 for the
    fraction that is cut off.
    """
    intbits = max(1, (to_hz // from_hz).bit_length())
    fracbits = 64 - intbits
    return FixedPoint((to_hz << fracbits) // from_hz, fracbits)


def rebase(ticks: int, pv_hz: int, old_hz: int, new_hz: int) -> int:
    """Return the first tick of a counter of ``new_hz`` at or after the LPT of ``ticks`` of ``old_hz``.

    It holds for the counter, and for what it is compared with. LPT jumps by less than one tick of the new
    counter, and never back.
    """
    if ticks >= _NEVER:
        return ticks
    return min(scale(pv_hz, new_hz).first(scale(pv_hz, old_hz).apply(max(0, ticks))), _NEVER - 1)


class LptMemory(ABC):
    """The memory of a machine's structure. Its placement provides it."""

    guest_provides: ClassVar[bool] = False
    """The guest registers it (:class:`LptCall`), and does not ask for it by PV_TIME_LPT."""

    @property
    @abstractmethod
    def ipa(self) -> int | None:
        """The structure's address; None: the guest has registered none."""

    @abstractmethod
    def write(self, structure: bytes) -> None:
        """Write the structure.

        :raises GuestMemoryError: the memory cannot be written now.
        """

    @property
    def registration(self) -> Registration:
        """The address that the guest has registered; 0: none."""
        return Registration(0)

    def register(self, registration: Registration) -> RegisterResult:
        """Use the address that the guest registers, or with a clear enable bit none any more."""
        return RegisterResult.NOT_SUPPORTED


class MappedLpt(LptMemory):
    """Memory beside the structures of stolen time, of the VMM or of the hypervisor.

    :param base: IPA of the region of stolen time.
    :param straight: its writer owns it: nobody can take it away.
    """

    def __init__(self, guest: GuestMap, base: int, *, straight: bool) -> None:
        self._ipa = base + LPT_OFFSET
        self._mapped = guest.bind(self._ipa, STRUCTURE_STRIDE)
        self._straight = straight

    @property
    def ipa(self) -> int:
        return self._ipa

    def write(self, structure: bytes) -> None:
        if not self._straight and self._mapped.unwritable is not None:
            raise GuestMemoryError(self._mapped.unwritable)
        self._mapped.bytes[:] = structure


@dataclass(frozen=True)
class LptState:
    """The part of a saved machine beside its memory."""

    sequence_number: Annotated[U64, bits(U64_MAX - 1)]
    asked: bool
    """The guest has asked for the structure."""
    registration: U64
    """The address that the guest has registered (:class:`Registration`); 0: none."""


class LivePhysicalTime:
    """One machine's LPT.

    :param pv_hz: its frequency, for the machine's life.
    """

    def __init__(self, memory: LptMemory, pv_hz: int) -> None:
        self._memory = memory
        self.pv_hz = pv_hz
        self._native_hz = pv_hz
        self._sequence_number = 0
        self._asked = False
        self.fault: str | None = None
        """The reason why the last write of the structure failed; None: it did not."""

    @property
    def asked(self) -> bool:
        """Whether the guest has asked for LPT: its counter is rebased where the frequency changes."""
        return self._asked

    @property
    def ipa(self) -> int | None:
        """The address of the structure that the guest has, or could have; None: it has registered none."""
        return self._memory.ipa

    @property
    def guest_provides(self) -> bool:
        """Whether the guest provides the memory."""
        return self._memory.guest_provides

    def structure(self) -> LptStructure:
        """Return the structure as it is written."""
        to_pv, to_native = scale(self.pv_hz, self._native_hz), scale(self._native_hz, self.pv_hz)
        return LptStructure(
            sequence_number=self._sequence_number,
            native_freq=self._native_hz,
            pv_freq=self.pv_hz,
            scale_mult=to_pv.mult,
            rscale_mult=to_native.mult,
            fracbits=to_pv.fracbits,
            rfracbits=to_native.fracbits,
        )

    def begin_run(self, native_hz: int) -> None:
        """Note that the machine begins to run on a host whose counter has ``native_hz``; no vCPU runs yet.

        Its first run, and each after a reset, a restore or a move, counts: bits 63:1 of the sequence number.
        """
        self._native_hz = native_hz
        self._sequence_number = self._sequence_number + 2 & U64_MAX
        self._write()

    def reset(self) -> None:
        """Note that the machine starts again: the guest has not asked, and has registered nothing."""
        self._asked = False
        self._memory.register(Registration(0))

    # The calls.

    def pv_time_lpt(self) -> int:
        """PV_TIME_LPT: the structure's IPA. Unlike PV_TIME_ST, another call changes nothing."""
        if self._memory.guest_provides or (ipa := self._memory.ipa) is None:
            return NOT_SUPPORTED
        self._asked = True
        return ipa

    def offers(self, function: int) -> bool:
        """Return whether the guest is offered a service call: PV_TIME_LPT."""
        return function == PvTime.LPT and not self._memory.guest_provides

    def register(self, registration: Registration) -> int:
        """LPT_SET, of a guest that provides the memory."""
        result = self._memory.register(registration)
        if result is RegisterResult.SUCCESS:
            self._asked = self._memory.ipa is not None
            self._write()
        return result

    @property
    def registration(self) -> Registration:
        """LPT_GET: the address that the guest has registered; 0: none."""
        return self._memory.registration

    # A saved machine.

    def state(self) -> LptState:
        """Return what a saved machine must hold beside its memory."""
        return LptState(self._sequence_number, self._asked, int(self._memory.registration))

    def restore(self, state: LptState) -> None:
        """Continue from a saved state; :meth:`begin_run` must follow.

        :raises GuestMemoryError: the registered address is no longer good for a structure.
        """
        self._sequence_number, self._asked = state.sequence_number, state.asked
        if state.registration:
            result = self._memory.register(Registration(state.registration))
            if result is not RegisterResult.SUCCESS:
                raise GuestMemoryError(f"Live Physical Time cannot be at {state.registration & ~1:#x}")

    def _write(self) -> None:
        self.fault = None
        if self._memory.ipa is not None:
            try:
                self._memory.write(bytes(self.structure()))
            except GuestMemoryError as error:
                self.fault = f"the structure at {self._memory.ipa:#x} cannot be written: {error}"
