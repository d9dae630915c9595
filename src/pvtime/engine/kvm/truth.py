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
at 0), and the thread is a fresh one.
"""

from __future__ import annotations

from typing import Final

from pvtime.abi.pvtime import STRUCTURE_STRIDE, StolenTime
from pvtime.machine.memory import GuestMemory

__all__ = ["MARK", "Truth"]

MARK: Final = 0x656D_6974_7670_2121
"""Any value but 0; this one reads as text in a dump."""

_MARK_OFFSET: Final = 56

PARKING: Final = 16 * 0x1400_0000.to_bytes(4, "little")
"""``b .``, more than once: an access that is still to be completed moves the program counter on."""


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
        """Return truth and structure, in ns, where the structure was brought up to date at ``run_delay``."""
        structure = self.structure()
        if self._memory.load_u64(self._mark) != MARK:
            self.enabled = True
            self._memory.store_u64(self._mark, MARK)
            self._baseline = min(max(run_delay - structure, self._last), run_delay)
        self._last = run_delay
        return run_delay - self._baseline, structure
