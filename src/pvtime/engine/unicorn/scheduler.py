# SPDX-License-Identifier: GPL-2.0-or-later
"""The choice of the vCPU that runs next on the one emulated CPU: fair shares, and a sleeper comes first.

The rule is that of Linux' CFS in its simplest form: run the vCPU that has run the least, but do not switch
for a small difference; a vCPU that wakes is not given the time for which it slept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sized
from operator import attrgetter
from typing import Final

from pvtime.engine.unicorn.vcpu import SchedState, UnicornVcpu

__all__ = ["SLICE_NS", "pick_next", "place_entity", "place_last", "slice_ns", "timer_slack_ns", "yield_to"]

SLICE_NS: Final = 2_000_000
"""The time for which a vCPU runs while others wait. One that spins until another has answered does so to the
end of its slice: a boot with two took 2.0 s, with slices of 4 ms 2.3 s (medians)."""

_SPIN_NS: Final = 100_000
"""The same for one that spun at the end of its last slice: time to look whether it still has to. What its PC
is at says that it spins; KVM learns it from trapped WFEs (kvm_vcpu_on_spin), which the library has not."""

_TIMER_SLACK_NS: Final = 125_000
"""Time, for each vCPU of the machine, by which timers of idle ones may be late while another one runs. Before
Linux switches to NOHZ mode, all its CPUs tick: 8,000 times a second with 32, and each tick costs 0.3 ms,
most of it for the TLB of which nothing is left. Late ticks come together."""

_vruntime: Final = attrgetter("vruntime_ns")


def _lead_ns(runnable: int) -> int:
    """Return the difference in time run that makes it another's turn: with it, each turn is one slice.

    Of two, one runs from that behind the other to that ahead; of many, all others have run almost the same.
    """
    return SLICE_NS * (runnable - 1) // runnable


def _runnable(vcpus: Iterable[UnicornVcpu], *but: UnicornVcpu | None) -> list[UnicornVcpu]:
    return [v for v in vcpus if v.state is SchedState.RUNNABLE and not v.held and v not in but]


def pick_next(vcpus: Iterable[UnicornVcpu], current: UnicornVcpu | None) -> UnicornVcpu | None:
    """Return the vCPU to run: ``current``, unless another has run clearly less; None: none is runnable.

    One that spins gives way to any other.
    """
    runnable = _runnable(vcpus)
    if current is not None and current.spins:
        runnable = [vcpu for vcpu in runnable if vcpu is not current] or runnable
        current = None
    first = min(runnable, key=_vruntime, default=None)
    if first is None or current is None or current.state is not SchedState.RUNNABLE:
        return first
    return first if current.vruntime_ns - first.vruntime_ns >= _lead_ns(len(runnable)) else current


def slice_ns(vcpus: Iterable[UnicornVcpu], current: UnicornVcpu) -> int | None:
    """Return the time for which ``current`` may run until it is another's turn; None: no other waits."""
    waiting = [vcpu.vruntime_ns for vcpu in _runnable(vcpus, current)]
    if not waiting:
        return None
    if current.spins:
        return _SPIN_NS
    return max(0, min(waiting) + _lead_ns(len(waiting) + 1) - current.vruntime_ns)


def timer_slack_ns(vcpus: Sized) -> int:
    """Return the time by which the timer of an idle vCPU may be late while another one runs."""
    return _TIMER_SLACK_NS * len(vcpus)


def place_entity(woken: UnicornVcpu, vcpus: Iterable[UnicornVcpu]) -> None:
    """Put a vCPU that wakes a slice ahead of the others, no more: it must not starve them."""
    others = [vcpu.vruntime_ns for vcpu in _runnable(vcpus, woken)]
    if others:
        woken.vruntime_ns = max(woken.vruntime_ns, min(others) - SLICE_NS)


def place_last(vcpu: UnicornVcpu, vcpus: Iterable[UnicornVcpu]) -> None:
    """Put a vCPU behind the others: one that spins, or that its own timer wakes, for which nobody waits."""
    others = [other.vruntime_ns for other in _runnable(vcpus, vcpu)]
    vcpu.vruntime_ns = max([vcpu.vruntime_ns, *others])


def yield_to(target: UnicornVcpu, current: UnicornVcpu, vcpus: Iterable[UnicornVcpu]) -> None:
    """Make it ``target``'s turn instead of ``current``'s, but not before a third one's."""
    others = [vcpu.vruntime_ns for vcpu in _runnable(vcpus, target, current)]
    ahead = current.vruntime_ns - _lead_ns(len(others) + 2)
    target.vruntime_ns = min(target.vruntime_ns, max(ahead, min(others, default=ahead)))
