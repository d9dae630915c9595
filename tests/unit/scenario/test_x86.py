# SPDX-License-Identifier: GPL-2.0-or-later
"""The scenario of x86's own KVM: where it is refused, and what its output calls it."""

from __future__ import annotations

import platform

import pytest

from framework.own_kvm import need_x86_kvm
from pvtime.cli.command import main
from pvtime.scenario.catalog import SCENARIOS
from pvtime.scenario.env import ScenarioEnv
from pvtime.scenario.runner import ScenarioRun, run_scenario
from pvtime.steal.placement import PlacementName

X86 = SCENARIOS["x86"]


def run(placement: PlacementName = PlacementName.GUEST) -> ScenarioRun:
    """Run the scenario; it needs no engine."""
    return run_scenario(X86, placement, X86.events(ScenarioEnv(NotImplemented, placement)))


def test_a_host_of_another_architecture_is_told_so_for_each_placement(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    for placement in PlacementName:
        assert run(placement).refusal == (
            "x86's stolen time needs an x86_64 host and this one is aarch64: "
            "for arm64's use pvtime scenario with another name"
        )
    assert main(["scenario", "x86", "--engine", "unicorn"]) == 2
    assert "needs an x86_64 host and this one is aarch64" in capsys.readouterr().err


@pytest.mark.parametrize("placement", [PlacementName.USERSPACE, PlacementName.HYPERVISOR])
def test_x86_has_one_placement(placement: PlacementName) -> None:
    need_x86_kvm()
    assert run(placement).refusal == "KVM on x86 has the placement guest alone"


def test_everything_is_as_expected_and_the_output_names_no_engine(capsys: pytest.CaptureFixture[str]) -> None:
    need_x86_kvm()
    code = main(["scenario", "x86", "--placement", "guest", "--engine", "unicorn"])
    out = capsys.readouterr().out
    assert code == 0, out
    assert "  guest on this host's KVM\n" in out
    assert "unicorn" not in out
    for topic in ("the count later", "preempted, while the vCPU waits"):
        assert f"    ok  {topic}: " in out
