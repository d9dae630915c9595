# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs a scenario, and says how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pvtime.errors import PvtimeError, UsageError
from pvtime.scenario.story import Event, Finding, Scenario
from pvtime.steal.placement import PlacementName

__all__ = ["Performance", "perform"]


@dataclass(frozen=True)
class Performance:
    """One scenario with one placement."""

    scenario: Scenario
    placement: PlacementName
    events: tuple[Event, ...]
    duration_ns: int
    refusal: str | None = None
    """What the engine lacks; nothing was done then."""
    failure: str | None = None
    """What kept it from its end."""

    @property
    def findings(self) -> list[Finding]:
        """What it has shown."""
        return [event for event in self.events if isinstance(event, Finding)]

    @property
    def holds(self) -> bool:
        """Whether all is as expected; so it is where nothing was expected to be shown."""
        return self.failure is None and all(finding.holds for finding in self.findings)


def perform(
    scenario: Scenario,
    placement: PlacementName,
    events: Iterator[Event],
    show: Callable[[Event], object] = lambda _: None,
) -> Performance:
    """Let a scenario happen.

    :param events: what it tells.
    :param show: is given each event as it happens.
    """
    told: list[Event] = []
    refusal = failure = None
    began = time.monotonic_ns()
    try:
        for event in events:
            told.append(event)
            show(event)
    except PvtimeError as error:
        # What an engine lacks it says before anything is done, and as what it is: not as a SavedStateError.
        if type(error) is UsageError and not told:
            refusal = str(error)
        else:
            failure = str(error)
    duration = time.monotonic_ns() - began
    return Performance(scenario, placement, tuple(told), duration, refusal, failure)
