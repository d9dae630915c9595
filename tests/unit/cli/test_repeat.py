# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line of experiments: what a user is told when he interrupts one."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from pvtime.cli.repeat import repeat_command
from pvtime.experiment import runner
from pvtime.experiment.plan import Plan, report_of

OPTIONS = ["--runs", "2", "--steal-sweep", "0%,30%"]


def test_ctrl_c_says_how_many_runs_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(plan: Plan, directory: Path, *_: object) -> None:
        report_of(directory, plan.jobs[0]).write_text("a report")
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run_jobs", interrupted)
    monkeypatch.setattr(runner, "free_cpus", lambda cpus: (cpus, dict.fromkeys(cpus, 0.0)))
    arguments = [*OPTIONS, "--out", str(tmp_path / "out"), "--", "run", "--duration", "1"]
    with pytest.raises(click.Abort):
        repeat_command.main(arguments, standalone_mode=False)
    assert "3 of 4 runs are left: the same command continues with them\n" in capsys.readouterr().err
