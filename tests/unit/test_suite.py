# SPDX-License-Identifier: GPL-2.0-or-later
"""The rules of this test suite itself: what a skip means to integration, and what a failure shows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from framework.wait import DEADLINE

SKIPPED = """
import pytest

def test_that_runs() -> None:
    pass

@pytest.mark.skip(reason="something is missing")
def test_that_does_not() -> None:
    pass

@pytest.mark.xfail(reason="known")
def test_that_fails_as_expected() -> None:
    raise AssertionError
"""

SKIPPED_WHILE_IMPORTED = 'import pytest\npytest.skip("something is missing", allow_module_level=True)\n'

WITNESSED = """
from framework.evidence import record, witness

def test_it() -> None:
    record("report.json", "the report")
    with witness(lambda: {"console": "Kernel panic"}):
        assert not "true"

def test_the_next() -> None:
    raise AssertionError
"""


SOURCES = {
    "test_skipped.py": SKIPPED,
    "test_module.py": SKIPPED_WHILE_IMPORTED,
    "test_witnessed.py": WITNESSED,
}


def run(folder: Path, workers: int, *names: str, integration: bool = True) -> tuple[int, str]:
    """Run files of tests with this suite's plugins; return the exit code and what was printed."""
    for name in names:
        (folder / name).write_text(SOURCES[name])
    plugins = ("-p", "framework.skips", "-p", "framework.evidence", "-p", "no:cacheprovider")
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "PVTIME_CI": str(int(integration)),
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugins, "-n", str(workers), "--rootdir", str(folder), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_skipped_test_is_told_and_no_failure_elsewhere(tmp_path: Path) -> None:
    code, text = run(tmp_path, 0, "test_skipped.py", integration=False)
    assert code == 0
    assert "1 passed, 1 skipped, 1 xfailed" in text


@pytest.mark.parametrize("workers", [0, 2])
def test_where_integration_runs_it_a_skip_fails_and_a_failure_shows_its_evidence(
    workers: int, tmp_path: Path
) -> None:
    code, text = run(tmp_path, workers, "test_skipped.py", "test_witnessed.py")
    assert code == 1
    assert "2 failed, 1 passed, 1 xfailed, 1 error" in text
    assert "something is missing" in text
    for line in ("report.json", "the report", "console", "Kernel panic"):
        assert text.count(line) >= 1
    assert text.count("Kernel panic") == 2, "in the source and in the evidence, of one test"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_module_that_is_skipped_fails_too(workers: int, tmp_path: Path) -> None:
    code, text = run(tmp_path, workers, "test_module.py")
    assert code not in (0, 5)
    assert "something is missing" in text
