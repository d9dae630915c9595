# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime scenario``: what it prints, refuses and answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TextIO

import pytest

from framework.ptys import written
from pvtime.cli.command import main
from pvtime.cli.scenario import show
from pvtime.errors import EngineError, SavedStateError, UsageError
from pvtime.scenario.catalog import SCENARIOS
from pvtime.scenario.env import ScenarioEnv
from pvtime.scenario.events import Event, Finding, Step
from pvtime.scenario.model import Scenario
from pvtime.steal.placement import PlacementName

ONE = ["--engine", "unicorn", "--placement", "guest"]
ON_ONE = ("guest", "unicorn")


def pretended(*pretended: Event | Exception) -> dict[str, Scenario]:
    """Return a catalogue whose one scenario yields these events."""

    def events(_env: ScenarioEnv) -> Iterator[Event]:
        for event in pretended:
            if isinstance(event, Exception):
                raise event
            yield event

    return {"overlap": replace(SCENARIOS["overlap"], events=events)}


def test_without_a_name_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scenario"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line]
    assert listed[: len(SCENARIOS)] == list(SCENARIOS)


def test_it_explains_quotes_and_gives_a_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scenario", "overlap", *ONE]) == 0
    out = capsys.readouterr().out
    assert "overlapping IPA" in out
    assert "Marc Zyngier, Re: [PATCH 0/9] arm64: Stolen time support, August 2019" in out
    assert "    ok  over a device: refused: INVALID_PARAMETER\n" in out
    assert "    all 3 as expected (" in out


def test_corrupted_bytes_are_shown_address_by_address(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scenario", "kexec", *ONE]) == 0
    dump = [line.split() for line in capsys.readouterr().out.splitlines() if "  ->  " in line]
    assert [line[0] for line in dump] == ["0x41040000", "0x41040008", "0x41040010"]
    for _, *was_and_now in dump:
        assert was_and_now[:9] == ["5a"] * 8 + ["->"]
        assert was_and_now[9:] != ["5a"] * 8


@pytest.mark.parametrize("arguments", [["scenario", "overlap", *ONE], ["doctor"]])
@pytest.mark.parametrize("no_color", ["", "1"])
def test_a_terminal_gets_colours_unless_no_color_is_set(
    arguments: list[str], no_color: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr("pvtime.doctor.guest._keep_busy", lambda: None)  # for a second

    def run(file: TextIO) -> None:
        monkeypatch.setattr(sys, "stdout", file)
        main(arguments)

    assert ("\x1b" in written(run)) is not bool(no_color)


def test_json_has_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scenario", "overlap", "--json", "--engine", "unicorn"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["schema"], document["engine"], document["real"]) == (1, "unicorn", False)
    (scenario,) = document["scenarios"]
    assert set(scenario) == {"name", "shows", "runs_on", "claims", "runs"}
    assert scenario["runs_on"] is None
    assert [run["placement"] for run in scenario["runs"]] == [one.value for one in PlacementName]
    for run in scenario["runs"]:
        assert (run["holds"], run["refusal"], run["failure"]) == (True, None, None)
        assert run["duration_ns"] > 0
        assert all(finding["seen"] == finding["expected"] for finding in run["findings"])
        assert all(set(step) == {"text", "lines"} for step in run["steps"])


def test_what_is_not_as_expected_is_marked_and_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    catalog = pretended(Step("It was done."), Finding("topic", "black", "white"))
    assert show(catalog, "overlap", *ON_ONE) == 1
    out = capsys.readouterr().out
    assert "    NO  topic: black\n        expected: white\n    1 of 1 NOT as expected" in out
    assert show(catalog, "table", *ON_ONE) == 1
    assert "**black** (expected: white)" in capsys.readouterr().out


def test_a_scenario_that_comes_to_no_end_has_failed(capsys: pytest.CaptureFixture[str]) -> None:
    catalog = pretended(Finding("topic", "white", "white"), EngineError("the guest is gone"))
    assert show(catalog, "overlap", *ON_ONE) == 1
    assert "NO  failed: the guest is gone" in capsys.readouterr().out
    assert show(catalog, "table", *ON_ONE) == 1
    assert capsys.readouterr().err == "pvtime: overlap, guest: the guest is gone\n"


@pytest.mark.parametrize(
    "events",
    [(SavedStateError("it is damaged"),), (Finding("topic", "white", "white"), UsageError("not now"))],
)
def test_what_is_refused_too_late_or_for_another_reason_has_failed(
    events: tuple[Event | Exception, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert show(pretended(*events), "overlap", *ON_ONE) == 1
    assert f"NO  failed: {events[-1]}" in capsys.readouterr().out


def test_a_placement_that_the_engine_lacks_is_named_and_the_others_go_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def events(env: ScenarioEnv) -> Iterator[Event]:
        if env.placement is not PlacementName.USERSPACE:
            raise UsageError(f"--placement {env.placement.value}: not with this one")
        yield Finding("topic", "white", "white")

    catalog = {"x": replace(SCENARIOS["overlap"], name="x", events=events)}
    assert show(catalog, "x", engine="unicorn") == 0
    out = capsys.readouterr().out
    assert "not possible here: --placement guest: not with this one" in out
    assert "all 1 as expected" in out
    with pytest.raises(UsageError, match=r"^--placement guest: not with this one$"):
        show(catalog, "x", *ON_ONE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "there is no scenario 'nothing': pvtime scenario lists them"),
        (["overlap", "--real"], "a real kernel cannot run the scenario overlap: leave out --real"),
        (
            ["kexec", "--real", "--engine", "kvm"],
            "--real needs the engine unicorn: leave out --engine kvm",
        ),
        (["kexec", "--placement", "nowhere"], "'nowhere' is not one of"),
        (["table", "--json"], "pvtime scenario all --json"),
    ],
)
def test_what_cannot_be_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scenario", *arguments]) == 2
    assert message in capsys.readouterr().err
