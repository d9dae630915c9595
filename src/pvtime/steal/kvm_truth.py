# SPDX-License-Identifier: GPL-2.0-or-later
"""Truth on KVM: what was stolen from a vCPU, as its thread's run_delay tells it.

The kernel's rule (arch/arm64/kvm/pvtime.c): PV_TIME_ST clears the structure and notes the thread's
run_delay; from then on each load adds what run_delay has grown by. So, whenever the structure is up to
date,

    run_delay - structure = baseline,    the run_delay at the last PV_TIME_ST

and truth is run_delay - baseline. Of the two terms, run_delay is the scheduler's own figure, read from
schedstat. The baseline is a number inside the kernel: the call is handled there and user space does not
hear of it. What is independent of the structure, and what is not:

- *That* the first call was made is known from a mark in the structure's padding, bytes 56 to 63, which
  PV_TIME_ST clears with the rest; the kernel's updates write only ``stolen_time``. No guest sees the
  mark: that call gives it the address.
- *That* a later one was made is known from the count, which it starts at 0: it is no more than run_delay
  has grown by since the last measurement, and is not that growth on top of the last count. Only a vCPU
  that has made a hypercall meanwhile can have called, by KVM's own statistics (``hvc_exit_stat``), where
  it keeps them. So a count that ran backwards or was lost is not mistaken for a call. A call that finds
  the count at 0 and leaves it there changes nothing, and is not noticed.
- *Between which run_delays* the call was made is known: it is later than the last measurement and not later
  than this one. A baseline outside is not believed.
- The baseline's *value* within these bounds is taken from the structure at the first measurement after a
  call. So that one difference is 0 by construction, unless the bounds contradict it. Every later one
  compares the kernel's count with the scheduler's, to the ns.

Where the guest registers an address (placement ``guest``, by pvtime's kernel module) nothing is marked in its
RAM: the module tells each registration, and the run_delay at the last one.

Before the first call the baseline is 0: the kernel counts from the vCPU's creation (``last_steal`` starts
at 0), and the thread is a fresh one. In a restored machine all that is so too, but the structure begins with
what was saved: so does truth, and the baseline is the negative of that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final, Protocol, TypeAlias

from pvtime.abi.layout import U64_MAX
from pvtime.abi.registration import Registration
from pvtime.records import dataclass
from pvtime.schema import U64, within
from pvtime.steal.structure import VmmStructure

__all__ = ["MARK", "Figure", "KvmStructure", "KvmTruth", "NoticedCalls", "StartCalls", "StolenState"]

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
    """Number of counts that the guest has started."""
    registration: U64 = 0
    """The address that the guest has registered (:class:`~pvtime.abi.registration.Registration`); 0: none."""


class KvmStructure(Protocol):
    """A structure that the kernel writes, as the VMM itself has it, whatever the guest may do with it."""

    @property
    def ipa(self) -> int | None:
        """The address at which the guest finds it; None: it has none now."""

    @property
    def unreadable(self) -> str | None:
        """The reason why the guest cannot read it now; None: it can."""

    @property
    def unwritable(self) -> str | None:
        """The reason why the kernel cannot write it now; None: it can, or it has no address."""

    def load(self) -> int:
        """Return the count, in ns."""

    def store(self, stolen: int) -> None:
        """Write the count, in ns."""


class StartCalls(Protocol):
    """The guest's calls that start the count, which the kernel handles."""

    def registration(self) -> Registration:
        """Return what the guest has registered; 0: it does not register any address."""

    def pending(self, growth: int, *, exact: bool) -> int:
        """Return how many have been noticed since the last :meth:`take`.

        :param growth: of the count since the last measurement, in ns, if none was made; at most that, if not
            ``exact``.
        """

    def take(self, earliest: int, latest: int) -> int:
        """Note them; return the run_delay, in ns, at the last one: from ``earliest`` to ``latest``."""

    def measured(self) -> None:
        """Note that the structure was measured, after :meth:`pending` and :meth:`take`."""

    def restore(self, *, enabled: bool) -> None:
        """Continue in a restored machine, whose guest has called before if ``enabled``."""


class NoticedCalls:
    """Calls of PV_TIME_ST, by what they do to the structure. Calls between two looks are one.

    :param hypercalls: reads how many the vCPU has made; None: the host does not tell.
    """

    def __init__(self, structure: VmmStructure, hypercalls: Callable[[], int] | None = None) -> None:
        self._structure = structure
        self._hypercalls = hypercalls
        self._hypercalls_before = self._count = 0
        """Of the last measurement; the count is in ns."""
        self._is_marked = True
        structure.last_word = MARK
        self.measured()

    def registration(self) -> Registration:
        """Return none: the guest asks for an address."""
        return Registration(0)

    def pending(self, growth: int, *, exact: bool) -> int:
        """Return whether the mark is gone, or the count has started again."""
        if self._is_marked:
            return int(self._structure.last_word != MARK)
        if self._structure.unwritable is not None:
            return 0  # a call does not start the count: its zeroes do not get there
        count = self._structure.load()
        agrees = count == (self._count + growth & U64_MAX) if exact else count >= self._count
        return int(not agrees and count <= growth and self._has_called())

    def _has_called(self) -> bool:
        """Whether the vCPU can have made a hypercall since the last measurement."""
        return self._hypercalls is None or self._hypercalls() != self._hypercalls_before

    def take(self, earliest: int, latest: int) -> int:
        """See :meth:`StartCalls.take`: the count began at 0."""
        self._is_marked = False
        return min(max(latest - self._structure.load(), earliest), latest)

    def measured(self) -> None:
        """See :meth:`StartCalls.measured`."""
        self._count = self._structure.load()
        if self._hypercalls is not None:
            self._hypercalls_before = self._hypercalls()

    def restore(self, *, enabled: bool) -> None:
        """Take the mark away if the guest has the address."""
        if enabled:
            self._is_marked, self._structure.last_word = False, 0
        self.measured()


class KvmTruth:
    """One vCPU's truth. Used by the vCPU's thread alone, while the guest is not entered.

    :param structure: None: the vCPU has no structure, and truth counts from the start.
    :param calls: the calls that start its count; None: there is no structure.
    """

    def __init__(self, structure: KvmStructure | None, calls: StartCalls | None = None) -> None:
        self._structure = structure
        self._calls = calls
        self._baseline = 0
        self._last = 0
        self._injected_since = 0
        """Stolen on purpose since then, in ns."""
        self.enabled = False
        """The guest has started the count, and has an address."""
        self.injected_ns = 0
        """The part of truth that was stolen on purpose."""
        self.all_injected_ns = 0
        """All that this object was told of stealing on purpose."""
        self.starts = 0
        """Number of counts that the guest has started."""
        self._measured: tuple[int, int | None] = (0, self.structure())

    @property
    def figures(self) -> tuple[int, int | None]:
        """Truth and structure, in ns, at the last measurement, and with what was injected since.

        None: nobody can read the structure in memory, at that time or now.
        """
        truth, structure = self._measured
        return truth, None if self.structure() is None else structure

    @property
    def ipa(self) -> int | None:
        """The structure's address; None: it has none now."""
        return None if self._structure is None else self._structure.ipa

    @property
    def has_structure(self) -> bool:
        """Whether the vCPU has a structure, or may be given one."""
        return self._structure is not None

    @property
    def fault(self) -> str | None:
        """The reason why the kernel cannot bring the structure up to date now; None: it can."""
        if self._structure is None or self._structure.unwritable is None:
            return None
        return f"the structure at {self.ipa or 0:#x} cannot be written: {self._structure.unwritable}"

    @property
    def in_use(self) -> bool:
        """Whether the guest or the kernel has touched the structure."""
        return self.enabled or self.structure() != 0 or self._pending(self._last, exact=False) > 0

    def _pending(self, run_delay: int, *, exact: bool) -> int:
        """Return the number of calls since the last measurement.

        :param exact: the structure is up to date at ``run_delay``; else of a moment not later than that.
        """
        if self._calls is None:
            return 0
        return self._calls.pending(run_delay - self._last + self._injected_since, exact=exact)

    def structure(self) -> int | None:
        """Return ``stolen_time``, in ns, as the guest reads it; None where nobody can read it in memory."""
        if self._structure is None or self.ipa is None or self._structure.unreadable is not None:
            return None
        return self._structure.load()

    def measure(self, run_delay: int) -> tuple[int, int | None]:
        """Return the :attr:`figures` where the structure was brought up to date at ``run_delay``."""
        if self._calls is not None:
            if pending := self._pending(run_delay, exact=True):
                self.starts += pending
                self.enabled = True
                self.injected_ns = 0
                self._baseline = self._calls.take(self._last, run_delay)
            self._calls.measured()
        self.enabled = self.enabled and self.ipa is not None
        self._last, self._injected_since = run_delay, 0
        self._measured = run_delay - self._baseline, self.structure()
        return self._measured

    def inject(self, ns: int) -> None:
        """Steal ``ns`` on purpose: KVM adds to the count that it finds in the structure, and keeps this."""
        self._baseline -= ns
        self.injected_ns += ns
        self.all_injected_ns += ns
        self._injected_since += ns
        if self._structure is not None and self.ipa is not None:
            self._structure.store((self._structure.load() + ns) & U64_MAX)
        # As of the last measurement: the kernel may have updated the structure since, which truth has not.
        truth, structure = self.figures
        self._measured = truth + ns, None if structure is None else structure + ns & U64_MAX

    def state(self, run_delay: int) -> StolenState:
        """Return what a saved machine must hold beside the structure.

        The structure is of the kernel's last update. That was at the last measurement, or later where the
        vCPU has been switched off since, so that it could not be stepped.

        :param run_delay: the thread's, now.
        """
        pending = self._pending(run_delay, exact=False)
        since = self._last if pending else self._baseline
        least, most = self._last - since, run_delay - since
        structure = self.structure()
        return StolenState(
            truth_ns=least if structure is None else min(max(structure, least), most),
            injected_ns=0 if pending else self.injected_ns,
            enabled=bool(pending) or self.enabled,
            starts=self.starts + pending,
            registration=0 if self._calls is None else int(self._calls.registration()),
        )

    def restore(self, state: StolenState) -> None:
        """Continue from a saved state, on a fresh thread."""
        self._baseline = -state.truth_ns
        self.injected_ns, self.enabled, self.starts = state.injected_ns, state.enabled, state.starts
        if self._calls is not None:
            self._calls.restore(enabled=state.enabled)
        self._measured = state.truth_ns, self.structure()
