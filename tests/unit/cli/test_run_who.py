# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime run --who``: the tracer beside the run, and its end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from framework.wait import wait_until
from pvtime.cli.run_who import naming_thieves
from pvtime.run.options import RunOptions

STUBBORN = "trap '' TERM; : > ready; while :; do sleep 0.1; done"


def test_a_tracer_that_does_not_end_is_told_instead_of_an_empty_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the lab the tracer took more than 10 s for its figures, and the run ended without a word of them."""
    if os.geteuid():
        pytest.skip("only root may trace the scheduler")
    monkeypatch.chdir(tmp_path)
    with naming_thieves(RunOptions(), 0.01, ["sh", "-c", STUBBORN]):
        wait_until(Path("ready").exists)
    assert capsys.readouterr().out == (
        "\n--who: the tracing had not ended 0.01 s after the machine: it has no figures\n"
    )


def test_the_tracers_table_is_behind_the_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if os.geteuid():
        pytest.skip("only root may trace the scheduler")
    table = "trap 'echo table; exit' TERM; : > \"$1\"; while :; do sleep 0.1; done"
    ready = tmp_path / "ready"
    with naming_thieves(RunOptions(), command=["sh", "-c", table, "sh", str(ready)]):
        wait_until(ready.exists)
        print("run")
    assert capsys.readouterr().out == "run\n\ntable\n"
