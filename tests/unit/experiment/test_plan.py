# SPDX-License-Identifier: GPL-2.0-or-later
"""Plans of experiments: what is swept, which jobs that makes, and the directory that keeps it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from pvtime.cli.command import main
from pvtime.errors import UsageError
from pvtime.experiment.plan import Plan, merge, parse_placements, parse_steals, report_of

PLAN = Plan(2, ["0%", "1:30%"], ["userspace", "guest"], ["--vcpus", "2", "--duration", "3"])


@pytest.mark.parametrize(
    ("text", "steals"),
    [
        ("0%", ["0%"]),
        ("30%", ["30%"]),
        ("0%,10%,…,90%", [f"{share}%" for share in range(0, 91, 10)]),
        ("0%,12.5%,...,50%", ["0%", "12.5%", "25%", "37.5%", "50%"]),
        ("5%,10%,...,20%,90%", ["5%", "10%", "15%", "20%", "90%"]),
        ("0%,1:50%", ["0%", "1:50%"]),
    ],
)
def test_a_sweep_of_steal_is_a_list_with_or_without_dots(text: str, steals: list[str]) -> None:
    assert parse_steals(text) == steals


@pytest.mark.parametrize(
    "text",
    [
        "",
        "30",
        "...",
        "0%,...,90%",
        "0%,10%,...",
        "10%,0%,...,90%",
        "0%,20%,...,90%",
        "101%",
        "4s@2",
        "1%,1%",
    ],
)
def test_what_is_no_sweep_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_steals(text)


def test_placements_are_all_or_some() -> None:
    assert (
        parse_placements("all") == ["hypervisor", "userspace", "guest"] or len(parse_placements("all")) == 3
    )
    assert parse_placements("guest, userspace") == ["guest", "userspace"]
    for text in ("", "moon", "guest,guest"):
        with pytest.raises(UsageError):
            parse_placements(text)


def test_every_point_has_its_runs_in_rounds_and_every_job_a_name_of_its_own() -> None:
    assert [job.number for job in PLAN.jobs] == [1, 1, 1, 1, 2, 2, 2, 2]
    assert len({job.name for job in PLAN.jobs}) == 8
    command = PLAN.command(PLAN.jobs[1], Path("/there/report.json"))
    assert shlex.join(command[3:]) == (
        "run --vcpus 2 --duration 3 --warm --steal 1:30% --placement userspace --no-control --quiet "
        "--report /there/report.json"
    )
    assert "--steal" not in PLAN.command(PLAN.jobs[0], Path("x"))
    own = Plan(1, ["0%"], ["userspace"], ["--initrd=mine", "--duration", "3"])
    assert "--warm" not in own.command(own.jobs[0], Path("x"))


def test_a_directory_keeps_one_plan(tmp_path: Path) -> None:
    PLAN.keep(tmp_path / "it")
    PLAN.keep(tmp_path / "it")
    assert Plan.load(tmp_path / "it") == PLAN
    with pytest.raises(UsageError, match="has another experiment"):
        Plan(3, PLAN.steals, PLAN.placements, PLAN.options).keep(tmp_path / "it")
    for damage in ("", "{}", '{"schema": 1, "runs": "x"}', json.dumps({"schema": 9})):
        (tmp_path / "it" / "experiment.json").write_text(damage)
        with pytest.raises(UsageError):
            Plan.load(tmp_path / "it")


def test_reports_of_other_directories_are_joined(tmp_path: Path) -> None:
    parts = [tmp_path / "a", tmp_path / "b"]
    for at, part in enumerate(parts):
        PLAN.keep(part)
        for job in PLAN.jobs[at : at + 2]:
            report_of(part, job).write_text(f"{at}")
    assert merge(tmp_path / "all", parts) == 3
    assert merge(tmp_path / "all", parts) == 0
    assert [report_of(tmp_path / "all", job).read_text() for job in PLAN.jobs[:3]] == ["0", "0", "1"]
    Plan(1, ["0%"], ["guest"], []).keep(tmp_path / "c")
    with pytest.raises(UsageError, match="merge what belongs together"):
        merge(tmp_path / "all", [*parts, tmp_path / "c"])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "--out is missing"),
        (["--out", "x"], "give the run behind --"),
        (["--out", "x", "--", "scenario"], "give the run behind --"),
        (["--out", "x", "--", "run"], "--duration"),
        (["--out", "x", "--", "run", "--duration", "1", "--steal", "30%"], "--steal is the experiment's"),
        (["--out", "x", "--merge"], "the directories to join"),
        (["--out", "x", "--merge", "/nonexistent"], "/nonexistent"),
    ],
)
def test_the_command_refuses_what_cannot_be(
    arguments: list[str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["repeat", *arguments]) == 2
    assert named in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_command_lists_its_jobs_for_other_hosts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "it"
    assert main(["repeat", "--runs", "2", "--out", str(out), "--list", "--", "run", "--duration", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [shlex.split(line)[-1] for line in lines] == [
        str(report_of(out, job)) for job in Plan.load(out).jobs
    ]
