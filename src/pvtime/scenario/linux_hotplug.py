# SPDX-License-Identifier: GPL-2.0-or-later
"""hotplug with Debian's kernel: what its /proc/stat makes of a count that starts from zero."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pvtime.errors import EngineError
from pvtime.images.cache import FetchProgress
from pvtime.scenario.events import Event, Finding, Step
from pvtime.scenario.linux_guest import LinuxGuest
from pvtime.scenario.linux_stock import steal_of, stock_linux
from pvtime.steal.placement import PlacementName
from pvtime.userland.protocol import Ready

__all__ = ["real"]

MIN_STOLEN_NS: Final = 300_000_000
CPU: Final = 1


def real(progress: FetchProgress, placement: PlacementName) -> Iterator[Event]:
    """Take CPU 1 offline and bring it back; see :attr:`Scenario.real`."""
    with stock_linux(progress, placement, 2) as guest:
        release = guest.wait_for(Ready, "userland").release
        guest.tell("busy", 2)
        guest.until(lambda now: all(one.truth_ns > MIN_STOLEN_NS for one in now), "stolen time of busy vCPUs")
        stat_was, was = _steal(guest), guest.engine.sample()[CPU]
        yield Step(
            f"Linux {release} is busy on both CPUs. Of CPU {CPU} {_ms(was.truth_ns)} are stolen; /proc/stat "
            f"says {_ms(stat_was)}."
        )
        guest.tell("offline", CPU)
        guest.tell("online", CPU)
        now = guest.engine.sample()[CPU]
        stat = _steal(guest)
        yield Step(f"It goes offline and online: its count is {_ms(now.count_ns)}, /proc/stat {_ms(stat)}.")
        observed = "starts from zero" if now.enabled and now.count_ns < was.count_ns else "goes on"
        yield Finding("the count once it asks again", observed, "starts from zero")
        observed = "runs backwards" if stat < stat_was else "does not run backwards"
        yield Step(
            f"Linux (steal_account_process_time) adds clock - previous, which underflows, to a sum that "
            f"wraps: {_ms(stat_was)} before, {_ms(stat)} after."
        )
        yield Finding("steal in /proc/stat", observed, "runs backwards")


def _steal(guest: LinuxGuest) -> int:
    steal = steal_of(guest, CPU)
    if steal is None:
        raise EngineError(f"CPU {CPU} is not online")
    return steal


def _ms(ns: int) -> str:
    return f"{ns / 1e6:.3f} ms"
