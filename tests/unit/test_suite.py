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


def run(folder: Path, source: str, *options: str, integration: bool = True) -> tuple[int, str]:
    """Run a file of tests with this suite's plugins; return the exit code and what was printed."""
    (folder / "test_it.py").write_text(source)
    plugins = ("-p", "framework.skips", "-p", "framework.evidence", "-p", "no:cacheprovider")
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "PVTIME_CI": str(int(integration)),
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugins, *options, "--rootdir", str(folder), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


on_workers = pytest.mark.parametrize("workers", ["0", "2"])


@on_workers
def test_a_skipped_test_fails_where_integration_runs_it(workers: str, tmp_path: Path) -> None:
    code, text = run(tmp_path, SKIPPED, "-n", workers)
    assert code == 1
    assert "1 passed, 1 xfailed, 1 error" in text
    assert "something is missing" in text
    code, text = run(tmp_path, SKIPPED, "-n", workers, integration=False)
    assert code == 0
    assert "1 passed, 1 skipped, 1 xfailed" in text


@on_workers
def test_a_module_that_is_skipped_fails_too(workers: str, tmp_path: Path) -> None:
    code, text = run(tmp_path, SKIPPED_WHILE_IMPORTED, "-n", workers)
    assert code not in (0, 5)
    assert "something is missing" in text


@on_workers
def test_a_failure_shows_what_was_recorded_and_no_other_tests_evidence(workers: str, tmp_path: Path) -> None:
    code, text = run(tmp_path, WITNESSED, "-n", workers)
    assert code == 1
    for line in ("report.json", "the report", "console", "Kernel panic"):
        assert text.count(line) >= 1
    assert text.count("Kernel panic") == 2, "in the source and in the evidence, of one test"
