# SPDX-License-Identifier: GPL-2.0-or-later
"""partial with Debian's kernel: what it does with a CPU that has no structure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pvtime.images.cache import FetchProgress
from pvtime.scenario.events import Event, Finding, Step
from pvtime.scenario.linux_stock import steal_of, stock_linux
from pvtime.steal.placement import PlacementName
from pvtime.userland.protocol import Ready

__all__ = ["real"]

WITHOUT: Final = 1


def real(progress: FetchProgress, placement: PlacementName) -> Iterator[Event]:
    """Boot it with two vCPUs, one without a structure; see :attr:`Scenario.real`."""
    with stock_linux(progress, placement, 2, no_pvtime=frozenset({WITHOUT})) as guest:
        release = guest.wait_for(Ready, "userland").release
        online = [cpu for cpu in range(2) if steal_of(guest, cpu) is not None]
        yield Step(f"Linux {release} is up. CPUs in its /proc/stat: {online}.")
        observed = "online" if WITHOUT in online else "not brought online"
        yield Finding("the CPU without a structure", observed, "not brought online")
        counts = [sample.enabled for sample in guest.engine.sample()]
        yield Step(
            f"Of its vCPUs these have asked for stolen time: {[i for i, on in enumerate(counts) if on]}."
        )
        yield Finding("the other CPU", "has stolen time" if counts[0] else "has none", "has stolen time")
