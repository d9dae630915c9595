# SPDX-License-Identifier: GPL-2.0-or-later
"""The results of scenarios as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pvtime.scenario.events import Finding, Step
from pvtime.scenario.model import Scenario
from pvtime.scenario.runner import ScenarioRun

__all__ = ["SCHEMA", "to_json"]

SCHEMA: Final = 1


def to_json(engine: str, runs: Sequence[ScenarioRun], *, real: bool) -> str:
    """Return the document; docs/placements.md describes it.

    :param real: the guest was Debian's kernel, not the probe.
    """
    scenarios: dict[str, dict[str, Any]] = {}
    for run in runs:
        scenarios.setdefault(run.scenario.name, _scenario(run.scenario))["runs"].append(_run(run))
    document = {"schema": SCHEMA, "engine": engine, "real": real, "scenarios": list(scenarios.values())}
    return json.dumps(document, indent=2) + "\n"


def _scenario(scenario: Scenario) -> dict[str, Any]:
    return {
        "name": scenario.name,
        "shows": scenario.shows,
        "runs_on": scenario.runs_on,
        "claims": [{"author": claim.author, "words": claim.words} for claim in scenario.claims],
        "runs": [],
    }


def _run(run: ScenarioRun) -> Mapping[str, Any]:
    return {
        "placement": run.placement.value,
        "holds": run.holds,
        "refusal": run.refusal,
        "failure": run.failure,
        "duration_ns": run.duration_ns,
        "steps": [
            {"text": event.text, "lines": list(event.lines)}
            for event in run.events
            if isinstance(event, Step)
        ],
        "findings": [
            {"topic": event.topic, "seen": event.observed, "expected": event.expected, "holds": event.holds}
            for event in run.events
            if isinstance(event, Finding)
        ],
    }
