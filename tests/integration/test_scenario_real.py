# SPDX-License-Identifier: GPL-2.0-or-later
"""Scenarios with Debian's kernel; test_kexec.py has that of kexec."""

from __future__ import annotations

import pytest

from pvtime.images.cache import silent
from pvtime.scenario.catalog import SCENARIOS
from pvtime.scenario.runner import run_scenario
from pvtime.steal.placement import PlacementName

pytestmark = pytest.mark.usefixtures("stock_images")


@pytest.mark.parametrize("placement", [PlacementName.USERSPACE, PlacementName.HYPERVISOR])
@pytest.mark.parametrize("name", ["hotplug", "partial"])
def test_linux_does_what_is_expected(name: str, placement: PlacementName) -> None:
    scenario = SCENARIOS[name]
    assert scenario.real is not None
    run = run_scenario(scenario, placement, scenario.real(silent, placement))
    assert (run.refusal, run.failure) == (None, None)
    assert [finding.observed for finding in run.findings] == [finding.expected for finding in run.findings]
    assert len(run.findings) == 2


@pytest.mark.parametrize("name", ["hotplug", "partial", "kexec"])
def test_a_real_kernel_gives_no_memory_and_that_is_said(name: str) -> None:
    scenario = SCENARIOS[name]
    assert scenario.real is not None
    run = run_scenario(scenario, PlacementName.GUEST, scenario.real(silent, PlacementName.GUEST))
    assert run.refusal is not None
    assert "Linux for arm64 gives no memory for stolen time" in run.refusal
