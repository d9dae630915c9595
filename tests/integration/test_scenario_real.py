# SPDX-License-Identifier: GPL-2.0-or-later
"""Scenarios with Debian's kernel; test_kexec.py has that of kexec."""

from __future__ import annotations

import pytest

from pvtime.images.cache import silent
from pvtime.scenario.catalog import SCENARIOS
from pvtime.scenario.perform import perform
from pvtime.steal.placement import PlacementName

pytestmark = pytest.mark.usefixtures("stock_images")


@pytest.mark.parametrize("placement", [PlacementName.USERSPACE, PlacementName.HYPERVISOR])
@pytest.mark.parametrize("name", ["hotplug", "partial"])
def test_linux_does_what_is_expected(name: str, placement: PlacementName) -> None:
    scenario = SCENARIOS[name]
    assert scenario.real is not None
    seen = perform(scenario, placement, scenario.real(silent, placement))
    assert (seen.refusal, seen.failure) == (None, None)
    assert [finding.seen for finding in seen.findings] == [finding.expected for finding in seen.findings]
    assert len(seen.findings) == 2


@pytest.mark.parametrize("name", ["hotplug", "partial", "kexec"])
def test_a_real_kernel_gives_no_memory_and_that_is_said(name: str) -> None:
    scenario = SCENARIOS[name]
    assert scenario.real is not None
    seen = perform(scenario, PlacementName.GUEST, scenario.real(silent, PlacementName.GUEST))
    assert seen.refusal is not None
    assert "Linux for arm64 gives no memory for stolen time" in seen.refusal
