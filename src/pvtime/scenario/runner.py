# SPDX-License-Identifier: GPL-2.0-or-later
"""Run scenarios, and report how they end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from pvtime.engine.registry import EngineKind
from pvtime.errors import PvtimeError, UsageError
from pvtime.images.cache import FetchProgress
from pvtime.scenario.env import ScenarioEnv
from pvtime.scenario.events import Event, Finding
from pvtime.scenario.model import Scenario
from pvtime.steal.placement import PlacementName

__all__ = ["ScenarioRun", "ScenarioView", "run_scenario", "run_scenarios"]


@dataclass(frozen=True)
class ScenarioRun:
    """One scenario with one placement."""

    scenario: Scenario
    placement: PlacementName
    events: tuple[Event, ...]
    duration_ns: int
    refusal: str | None = None
    """The missing feature of the engine, if nothing could be run."""
    failure: str | None = None
    """The error that ended it early."""

    @property
    def findings(self) -> list[Finding]:
        """Its observations."""
        return [event for event in self.events if isinstance(event, Finding)]

    @property
    def holds(self) -> bool:
        """Whether all findings are as expected; true without findings."""
        return self.failure is None and all(finding.holds for finding in self.findings)


class ScenarioView(Protocol):
    """Shows scenarios while they run."""

    def announce(self, scenario: Scenario) -> None:
        """Show a scenario's name and claims, before its runs."""

    def begin(self, placement: PlacementName, engine: str) -> None:
        """Show that a run with one placement begins."""

    def show(self, event: Event) -> None:
        """Show an event of the run."""

    def end(self, run: ScenarioRun) -> None:
        """Show the result of the run."""


def run_scenarios(
    kind: EngineKind,
    scenarios: Sequence[Scenario],
    placements: Sequence[PlacementName],
    view: ScenarioView | None,
    *,
    real: FetchProgress | None = None,
) -> list[ScenarioRun]:
    """Run each scenario with each placement.

    :param real: run Debian's kernel in the scenarios that can, and report the fetch of its images to this.
    """
    runs = []
    for scenario in scenarios:
        if view is not None:
            view.announce(scenario)
        for placement in placements:
            if real is not None and scenario.real is not None:
                events = scenario.real(real, placement)
            else:
                events = scenario.events(ScenarioEnv(kind.build, placement))
            if view is None:
                runs.append(run_scenario(scenario, placement, events))
                continue
            view.begin(placement, scenario.runs_on or kind.name)
            runs.append(run_scenario(scenario, placement, events, view.show))
            view.end(runs[-1])
    return runs


def run_scenario(
    scenario: Scenario,
    placement: PlacementName,
    events: Iterator[Event],
    show: Callable[[Event], object] = lambda _: None,
) -> ScenarioRun:
    """Run a scenario for one placement.

    :param events: its events.
    :param show: called with each event as it happens.
    """
    happened: list[Event] = []
    refusal = failure = None
    began = time.monotonic_ns()
    try:
        for event in events:
            happened.append(event)
            show(event)
    except PvtimeError as error:
        # An engine lacks something only if it says so before the first event, and not by a subclass.
        if type(error) is UsageError and not happened:
            refusal = str(error)
        else:
            failure = str(error)
    duration = time.monotonic_ns() - began
    return ScenarioRun(scenario, placement, tuple(happened), duration, refusal, failure)
