# SPDX-License-Identifier: GPL-2.0-or-later
"""Which vCPU runs next on the one emulated CPU: fair shares, and whoever slept comes first.

The rule is that of Linux' CFS in its simplest form: run the one that has run the least, but do not switch for
a small difference; one that wakes is not owed the time that it slept.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pvtime.engine.unicorn.vcpu import State, Vcpu

__all__ = ["SLICE_NS", "boost", "pick", "place_woken", "turn_ns"]

SLICE_NS: Final = 2_000_000
"""How long a vCPU runs while others wait. One that spins until another has answered does so to the end of its
slice: a boot with two took 2.0 s, with slices of 4 ms 2.3 s (medians)."""

_LEAD_NS: Final = SLICE_NS // 2
"""By how much another must have run less to have its turn: from that behind to that ahead is one slice."""


def _runnable(vcpus: Iterable[Vcpu], *but: Vcpu | None) -> list[Vcpu]:
    return [vcpu for vcpu in vcpus if vcpu.state is State.RUNNABLE and not vcpu.held and vcpu not in but]


def pick(vcpus: Iterable[Vcpu], current: Vcpu | None) -> Vcpu | None:
    """Return who runs next: ``current``, unless another has run clearly less; None where none is runnable."""
    first = min(_runnable(vcpus), key=lambda vcpu: vcpu.virtual_ns, default=None)
    if first is None or current is None or current.state is not State.RUNNABLE:
        return first
    return first if current.virtual_ns - first.virtual_ns >= _LEAD_NS else current


def turn_ns(vcpus: Iterable[Vcpu], current: Vcpu) -> int | None:
    """Return how long ``current`` may run until it is another's turn; None: nobody waits."""
    waiting = [vcpu.virtual_ns for vcpu in _runnable(vcpus, current)]
    return max(0, min(waiting) + _LEAD_NS - current.virtual_ns) if waiting else None


def place_woken(woken: Vcpu, vcpus: Iterable[Vcpu]) -> None:
    """Put a vCPU that wakes a slice ahead of the others, no more: it must not starve them."""
    others = [vcpu.virtual_ns for vcpu in _runnable(vcpus, woken)]
    if others:
        woken.virtual_ns = max(woken.virtual_ns, min(others) - SLICE_NS)


def boost(target: Vcpu, current: Vcpu, vcpus: Iterable[Vcpu]) -> None:
    """Make it ``target``'s turn instead of ``current``'s, but not before a third one's."""
    ahead = current.virtual_ns - _LEAD_NS
    third = min((vcpu.virtual_ns for vcpu in _runnable(vcpus, target, current)), default=ahead)
    target.virtual_ns = min(target.virtual_ns, max(ahead, third))
