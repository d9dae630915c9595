# SPDX-License-Identifier: GPL-2.0-or-later
"""Every scenario shows what is expected of it, for each placement that the engine has."""

from __future__ import annotations

import pytest

from framework.engines import Choice
from pvtime.scenario.catalog import SCENARIOS
from pvtime.scenario.env import ScenarioEnv
from pvtime.scenario.runner import run_scenario
from pvtime.steal.placement import PlacementName

REFUSALS = {
    PlacementName.HYPERVISOR: "pvtime's kernel module",
    PlacementName.GUEST: "KVM on arm64 does not have it",
}
"""Reasons of KVM without that module."""


@pytest.mark.parametrize("placement", PlacementName, ids=lambda each: each.value)
@pytest.mark.parametrize("name", [name for name, one in SCENARIOS.items() if one.runs_on is None])
def test_it_shows_what_is_expected_or_the_engine_says_by_name_why_not(
    name: str, placement: PlacementName, engine: Choice
) -> None:
    scenario = SCENARIOS[name]
    run = run_scenario(scenario, placement, scenario.events(ScenarioEnv(engine.build, placement)))
    if engine.name == "kvm" and placement in REFUSALS:
        assert run.refusal is not None
        assert REFUSALS[placement] in run.refusal
        return
    assert (run.refusal, run.failure) == (None, None)
    assert [(each.topic, each.observed) for each in run.findings] == [
        (each.topic, each.expected) for each in run.findings
    ]
    assert run.findings
