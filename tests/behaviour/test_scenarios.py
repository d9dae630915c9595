# SPDX-License-Identifier: GPL-2.0-or-later
"""Every scenario shows what is expected of it, for each placement that the engine has."""

from __future__ import annotations

import pytest

from framework.engines import Choice
from pvtime.scenario.catalog import SCENARIOS
from pvtime.scenario.perform import perform
from pvtime.scenario.stage import Stage
from pvtime.steal.placement import PlacementName

ONLY_USERSPACE = "KVM on arm64 has the placement userspace alone"


@pytest.mark.parametrize("placement", PlacementName, ids=lambda each: each.value)
@pytest.mark.parametrize("name", SCENARIOS)
def test_it_shows_what_is_expected_or_the_engine_says_by_name_why_not(
    name: str, placement: PlacementName, engine: Choice
) -> None:
    scenario = SCENARIOS[name]
    seen = perform(scenario, placement, scenario.tell(Stage(engine.build, placement)))
    if engine.name == "kvm" and placement is not PlacementName.USERSPACE:
        assert seen.refusal is not None
        assert ONLY_USERSPACE in seen.refusal
        return
    assert (seen.refusal, seen.failure) == (None, None)
    assert [(each.topic, each.seen) for each in seen.findings] == [
        (each.topic, each.expected) for each in seen.findings
    ]
    assert seen.findings
