# SPDX-License-Identifier: GPL-2.0-or-later
"""The rules of this test suite itself: what a skip means to integration, and what a failure shows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from framework.fakes import FakeEngine
from framework.linux import LinuxGuest
from framework.schedule import group
from framework.wait import DEADLINE, wait_until

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


@pytest.mark.parametrize(
    ("test", "name"),
    [
        ("tests/lab/test_engine.py::test_it[neoverse-n1]", r"lab/test_engine\.py"),
        ("tests/integration/test_saved_aarch32.py::test_it", "tests/integration/test_saved_aarch32.py"),
        ("tests/unit/scenario/test_table.py::test_it", "tests/unit/scenario/test_table.py"),
        ("tests/integration/test_boot.py::test_it", "tests/integration/test_boot.py::test_it"),
    ],
)
def test_one_worker_has_all_tests_that_share_what_their_module_makes_once(test: str, name: str) -> None:
    # Three workers performed all scenarios each, for three tests of one table.
    assert group(test, Path(__file__).parents[2]) == name


class LastWords:
    """A guest that does what is waited for behind the first look, and ends at once."""

    def __init__(self) -> None:
        self.engine = FakeEngine()
        self._looks = 0

    def come(self) -> bool:
        """Look."""
        self._looks += 1
        if self._looks == 1:
            self.engine.power_off()
        return self._looks > 1


def test_what_comes_just_before_a_guests_end_is_not_missed() -> None:
    # It was on a busy host, where the test looked, slept, and found the guest ended.
    guest = LastWords()
    assert wait_until(guest.come, guest.engine)
    guest = LastWords()
    LinuxGuest(cast("Any", None), cast("Any", guest.engine))._wait(guest.come, "its last words")


def test_a_guest_that_ends_without_what_is_waited_for_is_told() -> None:
    guest = LastWords()
    guest.engine.power_off()
    with pytest.raises(AssertionError, match="the guest has ended"):
        wait_until(lambda: False, guest.engine)
    with pytest.raises(AssertionError, match="the guest ended before a word"):
        LinuxGuest(cast("Any", None), cast("Any", guest.engine))._wait(lambda: False, "a word")
