# SPDX-License-Identifier: GPL-2.0-or-later
"""The choice of the vCPU that runs next on the one emulated CPU: fair shares, and a sleeper comes first.

The rule is that of Linux' CFS in its simplest form: run the vCPU that has run the least, but do not switch
for a small difference; a vCPU that wakes is not given the time for which it slept.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pvtime.engine.unicorn.vcpu import SchedState, UnicornVcpu

__all__ = ["SLICE_NS", "pick_next", "place_entity", "slice_ns", "yield_to"]

SLICE_NS: Final = 2_000_000
"""The time for which a vCPU runs while others wait. One that spins until another has answered does so to the
end of its slice: a boot with two took 2.0 s, with slices of 4 ms 2.3 s (medians)."""

_LEAD_NS: Final = SLICE_NS // 2
"""The difference in time run that makes it another's turn: from that behind to that ahead is one slice."""


def _runnable(vcpus: Iterable[UnicornVcpu], *but: UnicornVcpu | None) -> list[UnicornVcpu]:
    return [v for v in vcpus if v.state is SchedState.RUNNABLE and not v.held and v not in but]


def pick_next(vcpus: Iterable[UnicornVcpu], current: UnicornVcpu | None) -> UnicornVcpu | None:
    """Return the vCPU to run: ``current``, unless another has run clearly less; None: none is runnable."""
    first = min(_runnable(vcpus), key=lambda vcpu: vcpu.vruntime_ns, default=None)
    if first is None or current is None or current.state is not SchedState.RUNNABLE:
        return first
    return first if current.vruntime_ns - first.vruntime_ns >= _LEAD_NS else current


def slice_ns(vcpus: Iterable[UnicornVcpu], current: UnicornVcpu) -> int | None:
    """Return the time for which ``current`` may run until it is another's turn; None: no other waits."""
    waiting = [vcpu.vruntime_ns for vcpu in _runnable(vcpus, current)]
    return max(0, min(waiting) + _LEAD_NS - current.vruntime_ns) if waiting else None


def place_entity(woken: UnicornVcpu, vcpus: Iterable[UnicornVcpu]) -> None:
    """Put a vCPU that wakes a slice ahead of the others, no more: it must not starve them."""
    others = [vcpu.vruntime_ns for vcpu in _runnable(vcpus, woken)]
    if others:
        woken.vruntime_ns = max(woken.vruntime_ns, min(others) - SLICE_NS)


def yield_to(target: UnicornVcpu, current: UnicornVcpu, vcpus: Iterable[UnicornVcpu]) -> None:
    """Make it ``target``'s turn instead of ``current``'s, but not before a third one's."""
    ahead = current.vruntime_ns - _LEAD_NS
    third = min((vcpu.vruntime_ns for vcpu in _runnable(vcpus, target, current)), default=ahead)
    target.vruntime_ns = min(target.vruntime_ns, max(ahead, third))
