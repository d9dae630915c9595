# SPDX-License-Identifier: GPL-2.0-or-later
"""Every scenario shows what is expected of it, for each placement that the engine has."""

from __future__ import annotations

import pytest

from framework.engines import Choice
from pvtime.engine.kvm.pvtime_fd import is_loaded
from pvtime.scenario.catalog import SCENARIOS
from pvtime.scenario.env import ScenarioEnv
from pvtime.scenario.runner import run_scenario
from pvtime.steal.placement import PlacementName

REFUSAL = "KVM on arm64 has the placement userspace alone"
"""Reason of a KVM without pvtime's kernel module."""


@pytest.mark.parametrize("placement", PlacementName, ids=lambda each: each.value)
@pytest.mark.parametrize("name", [name for name, one in SCENARIOS.items() if one.runs_on is None])
def test_it_shows_what_is_expected_or_the_engine_says_by_name_why_not(
    name: str, placement: PlacementName, engine: Choice
) -> None:
    scenario = SCENARIOS[name]
    run = run_scenario(scenario, placement, scenario.events(ScenarioEnv(engine.build_with, placement)))
    if engine.name == "kvm" and name == "lpt":
        assert "the kvm engine has no Live Physical Time, which was never merged" in (run.refusal or "")
        return
    if engine.name == "kvm" and placement is not PlacementName.USERSPACE and not is_loaded():
        assert run.refusal is not None
        assert REFUSAL in run.refusal
        return
    if engine.name == "kvm" and (name, placement) == ("faults", PlacementName.GUEST):
        assert run.failure is None
        assert "the kvm engine can protect whole regions alone" in (run.refusal or "")
        return
    assert (run.refusal, run.failure) == (None, None)
    assert [(each.topic, each.observed) for each in run.findings] == [
        (each.topic, each.expected) for each in run.findings
    ]
    assert run.findings
