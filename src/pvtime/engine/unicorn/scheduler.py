# SPDX-License-Identifier: GPL-2.0-or-later
"""Which vCPU runs next on the one emulated CPU: fair shares, and whoever slept comes first.

The rule is that of Linux' CFS in its simplest form: run the one that has run the least; one that wakes is
not owed the time that it slept.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pvtime.engine.unicorn.vcpu import State, Vcpu

__all__ = ["RETRY_NS", "SLICE_NS", "pick", "place_woken"]

SLICE_NS: Final = 2_000_000
"""How long a vCPU runs while others wait. One that spins until another has answered does so to the end of its
slice: a boot with two took 2.0 s, with slices of 4 ms 2.3 s (medians)."""

RETRY_NS: Final = 100_000
"""How long a run may last while an interrupt waits for the guest to unmask it."""


def pick(vcpus: Iterable[Vcpu]) -> Vcpu | None:
    """Return the runnable vCPU that has run the least; None where all are idle or off."""
    runnable = [vcpu for vcpu in vcpus if vcpu.state is State.RUNNABLE]
    return min(runnable, key=lambda vcpu: vcpu.virtual_ns, default=None)


def place_woken(woken: Vcpu, vcpus: Iterable[Vcpu]) -> None:
    """Put a vCPU that wakes a slice ahead of the others, no more: it must not starve them."""
    running = [vcpu.virtual_ns for vcpu in vcpus if vcpu.state is State.RUNNABLE and vcpu is not woken]
    if running:
        woken.virtual_ns = max(woken.virtual_ns, min(running) - SLICE_NS)
