# SPDX-License-Identifier: GPL-2.0-or-later
"""The description of a scenario, and the claims of the thread that it tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from pvtime.images.cache import FetchProgress
from pvtime.scenario.env import ScenarioEnv
from pvtime.scenario.events import Event
from pvtime.steal.placement import PlacementName

__all__ = ["Claim", "Scenario"]

ProbeEvents: TypeAlias = Callable[[ScenarioEnv], Iterator[Event]]
LinuxEvents: TypeAlias = Callable[[FetchProgress, PlacementName], Iterator[Event]]


@dataclass(frozen=True)
class Claim:
    """A sentence of the thread "Re: [PATCH 0/9] arm64: Stolen time support" of August 2019."""

    author: str
    words: str


@dataclass(frozen=True)
class Scenario:
    """An experiment with the memory that stolen time is written to."""

    name: str
    shows: str
    """One line."""
    events: ProbeEvents
    """Run it with the probe, for one placement on one engine.

    :raises UsageError: before the first event: the engine lacks something, which the message names.
    :raises PvtimeError: the guest did not do its part.
    """
    claims: tuple[Claim, ...] = ()
    """Statements of the thread that it tests; empty: the scenario comes from practice."""
    real: LinuxEvents | None = None
    """Run it with Debian's kernel on the embedded engine; None: Linux has no way to do this."""
    runs_on: str | None = None
    """Name of that on which it runs, whichever engine is chosen; None: on that engine."""
