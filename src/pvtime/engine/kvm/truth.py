# SPDX-License-Identifier: GPL-2.0-or-later
"""Truth on KVM: what was stolen from a vCPU, as its thread's run_delay tells it.

The kernel's rule (arch/arm64/kvm/pvtime.c): PV_TIME_ST clears the structure and notes the thread's
run_delay; from then on each load adds what run_delay has grown by. So, whenever the structure is up to
date,

    run_delay - structure = baseline,    the run_delay at the last PV_TIME_ST

and truth is run_delay - baseline. Of the two terms, run_delay is the scheduler's own figure, read from
schedstat. The baseline is a number inside the kernel: the call is handled there and user space does not
hear of it. What is independent of the structure, and what is not:

- *That* a call was made is known from a mark in the structure's padding, bytes 56 to 63. PV_TIME_ST clears
  all 64 bytes; the kernel's updates write only ``stolen_time``. So a count that ran backwards or was lost
  is not mistaken for a call.
- *Between which run_delays* the call was made is known: it is later than the last measurement and not later
  than this one. A baseline outside is not believed.
- The baseline's *value* within these bounds is taken from the structure at the first measurement after a
  call. So that one difference is 0 by construction, unless the bounds contradict it. Every later one
  compares the kernel's count with the scheduler's, to the ns.

Before the first call the baseline is 0: the kernel counts from the vCPU's creation (``last_steal`` starts
at 0), and the thread is a fresh one. In a restored machine all that is so too, but the structure begins with
what was saved: so does truth, and the baseline is the negative of that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pvtime.abi.pvtime import STRUCTURE_STRIDE, StolenTime
from pvtime.machine.memory import GuestMemory

__all__ = ["MARK", "StolenState", "Truth"]

MARK: Final = 0x656D_6974_7670_2121
"""Any value but 0; this one reads as text in a dump."""

_MARK_OFFSET: Final = 56
_U64: Final = (1 << 64) - 1

PARKING: Final = 16 * 0x1400_0000.to_bytes(4, "little")
"""``b .``, more than once: an access that is still to be completed moves the program counter on."""


@dataclass(frozen=True)
class StolenState:
    """A vCPU's stolen time, beside its structure. Times in ns."""

    truth_ns: int
    injected_ns: int
    enabled: bool


class Truth:
    """One vCPU's books. Used by the vCPU's thread alone, while the guest is not entered."""

    def __init__(self, memory: GuestMemory, index: int) -> None:
        self.ipa = memory.base + index * STRUCTURE_STRIDE
        self._memory = memory
        self._mark = self.ipa + _MARK_OFFSET
        self._count = self.ipa + StolenTime.stolen_time.offset
        self._baseline = 0
        self._last = 0
        self.enabled = False
        """The guest has called PV_TIME_ST."""
        self.injected_ns = 0
        """How much of truth was stolen on purpose."""
        self.figures = 0, 0
        """Truth and structure, in ns, at the last measurement."""
        self.fault: str | None = None
        """Why the structure cannot be written; nothing brings it up to date until it can."""
        memory.store_u64(self._mark, MARK)
        self.parking = memory.end - len(PARKING)
        """IPA of instructions that a vCPU may be stepped through after the guest's end."""
        memory.write(self.parking, PARKING)

    @property
    def in_use(self) -> bool:
        """Whether the guest or the kernel has touched the structure."""
        return self.enabled or self.structure() != 0 or self._memory.load_u64(self._mark) != MARK

    def structure(self) -> int:
        """Return ``stolen_time``, in ns, as the guest would read it."""
        return self._memory.load_u64(self._count)

    def measure(self, run_delay: int) -> tuple[int, int]:
        """Return the :attr:`figures` where the structure was brought up to date at ``run_delay``."""
        structure = self.structure()
        if self._memory.load_u64(self._mark) != MARK:
            self.enabled = True
            self.injected_ns = 0
            self._memory.store_u64(self._mark, MARK)
            self._baseline = min(max(run_delay - structure, self._last), run_delay)
        self._last = run_delay
        self.figures = run_delay - self._baseline, structure
        return self.figures

    def inject(self, ns: int) -> None:
        """Steal so much on purpose: KVM adds to what it finds in the structure, and keeps this."""
        self._memory.store_u64(self._count, (self.structure() + ns) & _U64)
        self._baseline -= ns
        self.injected_ns += ns
        truth, structure = self.figures
        self.figures = truth + ns, structure + ns

    def state(self, run_delay: int) -> StolenState:
        """Return what a saved machine must hold beside the structure.

        The structure is of the kernel's last update. That was at the last measurement, or later where the
        vCPU has been switched off since, so that it could not be stepped.

        :param run_delay: the thread's, now.
        """
        called = self._memory.load_u64(self._mark) != MARK
        since = self._last if called else self._baseline
        least, most = self._last - since, run_delay - since
        return StolenState(
            truth_ns=min(max(self.structure(), least), most),
            injected_ns=0 if called else self.injected_ns,
            enabled=called or self.enabled,
        )

    def restore(self, state: StolenState) -> None:
        """Go on from a saved state, on a fresh thread."""
        self._baseline = -state.truth_ns
        self.injected_ns, self.enabled = state.injected_ns, state.enabled
        self.figures = state.truth_ns, self.structure()
