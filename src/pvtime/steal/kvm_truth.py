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
from typing import Annotated, Final, TypeAlias

from pvtime.abi.layout import U64_MAX
from pvtime.schema import within
from pvtime.steal.structure import VmmStructure

__all__ = ["MARK", "Figure", "KvmTruth", "StolenState"]

MARK: Final = 0x656D_6974_7670_2121
"""Any value but 0; this one reads as text in a dump."""


Figure: TypeAlias = Annotated[int, within(0, (1 << 63) - 1)]
"""292 years in ns."""


@dataclass(frozen=True)
class StolenState:
    """A vCPU's stolen time, beside its structure. Times in ns."""

    truth_ns: Figure
    injected_ns: Figure
    enabled: bool
    starts: Figure
    """How often the guest has called PV_TIME_ST."""


class KvmTruth:
    """One vCPU's truth. Used by the vCPU's thread alone, while the guest is not entered.

    :param structure: the VMM's own view of the structure, whatever the guest may do with the memory; None:
        the vCPU has no structure, and truth counts from the start.
    """

    def __init__(self, structure: VmmStructure | None) -> None:
        self._structure = structure
        self._baseline = 0
        self._last = 0
        self.enabled = False
        """The guest has called PV_TIME_ST."""
        self.injected_ns = 0
        """The part of truth that was stolen on purpose."""
        self.all_injected_ns = 0
        """All that this object was told of stealing on purpose."""
        self.starts = 0
        """How often the guest has called PV_TIME_ST; calls between two measurements are one."""
        self.figures: tuple[int, int | None] = (0, self.structure())
        """Truth and structure, in ns, at the last measurement; None: nobody can read it in memory."""
        if structure is not None:
            structure.last_word = MARK

    @property
    def ipa(self) -> int | None:
        """The structure's address; None: the vCPU has none."""
        return None if self._structure is None else self._structure.ipa

    @property
    def fault(self) -> str | None:
        """The reason why the kernel cannot bring the structure up to date now; None: it can."""
        if self._structure is None or self._structure.unwritable is None:
            return None
        return f"the structure at {self._structure.ipa:#x} cannot be written: {self._structure.unwritable}"

    @property
    def in_use(self) -> bool:
        """Whether the guest or the kernel has touched the structure."""
        return self.enabled or self.structure() != 0 or self._called

    @property
    def _called(self) -> bool:
        """Whether PV_TIME_ST has cleared the mark."""
        return self._structure is not None and self._structure.last_word != MARK

    def structure(self) -> int | None:
        """Return ``stolen_time``, in ns, as the guest reads it; None where nobody can read it in memory."""
        if self._structure is None or self._structure.unreadable is not None:
            return None
        return self._structure.load()

    def measure(self, run_delay: int) -> tuple[int, int | None]:
        """Return the :attr:`figures` where the structure was brought up to date at ``run_delay``."""
        if self._structure is not None and self._called:
            self.enabled = True
            self.starts += 1
            self.injected_ns = 0
            self._structure.last_word = MARK
            self._baseline = min(max(run_delay - self._structure.load(), self._last), run_delay)
        self._last = run_delay
        self.figures = run_delay - self._baseline, self.structure()
        return self.figures

    def inject(self, ns: int) -> None:
        """Steal ``ns`` on purpose: KVM adds to the count that it finds in the structure, and keeps this."""
        self._baseline -= ns
        self.injected_ns += ns
        self.all_injected_ns += ns
        if self._structure is not None:
            self._structure.store((self._structure.load() + ns) & U64_MAX)
        # As of the last measurement: the kernel may have updated the structure since, which truth has not.
        truth, structure = self.figures
        readable = structure is not None and self.structure() is not None
        self.figures = truth + ns, (structure or 0) + ns & U64_MAX if readable else None

    def state(self, run_delay: int) -> StolenState:
        """Return what a saved machine must hold beside the structure.

        The structure is of the kernel's last update. That was at the last measurement, or later where the
        vCPU has been switched off since, so that it could not be stepped.

        :param run_delay: the thread's, now.
        """
        since = self._last if self._called else self._baseline
        least, most = self._last - since, run_delay - since
        structure = self.structure()
        return StolenState(
            truth_ns=least if structure is None else min(max(structure, least), most),
            injected_ns=0 if self._called else self.injected_ns,
            enabled=self._called or self.enabled,
            starts=self.starts + self._called,
        )

    def restore(self, state: StolenState) -> None:
        """Continue from a saved state, on a fresh thread."""
        self._baseline = -state.truth_ns
        self.injected_ns, self.enabled, self.starts = state.injected_ns, state.enabled, state.starts
        self.figures = state.truth_ns, self.structure()
