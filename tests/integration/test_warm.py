# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime run --warm``: booted once, resumed from then on, and never from a damaged guest."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from framework.interactive import PVTIME
from framework.wait import DEADLINE
from pvtime.images.cache import cache_directory
from pvtime.report import document

BOOTING = "booting a guest for this and later warm starts"
WARM = ("run", "--warm", "--engine", "unicorn", "--memory", "128M", "--duration", "0.2")


@pytest.fixture
def cache(tmp_path: Path, stock_images: object) -> Path:
    """Return a cache with the stock images, and no guest."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "images").symlink_to(cache_directory() / "images")
    return tmp_path / "cache"


def start(cache: Path, report: Path, *more: str) -> subprocess.Popen[str]:
    """Start a guest."""
    return subprocess.Popen(
        [*PVTIME, *WARM, *more, "--report", str(report)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PVTIME_CACHE": str(cache)},
    )


def finish(process: subprocess.Popen[str], path: Path) -> str:
    """Wait for the end of a run, whose figures must be right; return its output."""
    text, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, text
    assert "pvtime: engine unicorn: warm start" in text
    report = document.from_json(path.read_text())
    assert report.boot_seconds is None, "it did not boot"
    for row in report.vcpus:
        assert row.enabled
        assert row.error_ns == 0
        assert row.guest_error_ns is not None, "the guest did not answer"
        assert row.guest_error_ns <= 0, "it knows more than was stolen"
    return text


def test_a_guest_is_booted_once_and_again_when_it_is_damaged(cache: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    # Two at once: one boots, and both start from that guest.
    both = [start(cache, tmp_path / name) for name in ("one.json", "two.json")]
    texts = [
        finish(process, tmp_path / name) for process, name in zip(both, ("one.json", "two.json"), strict=True)
    ]
    assert sorted(BOOTING in text for text in texts) == [False, True]
    assert BOOTING not in finish(start(cache, report, "--steal", "0:30%"), report)

    (directory,) = (path for path in (cache / "warm").iterdir() if path.is_dir())
    memory = max(directory.iterdir(), key=lambda path: path.stat().st_blocks)
    with memory.open("r+b") as file:
        file.seek(os.lseek(file.fileno(), 0, os.SEEK_DATA))
        file.write(b"damaged")
    text = finish(start(cache, report), report)
    assert f"{memory} is damaged" in text
    assert BOOTING in text


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--interactive"], "leave out --warm or --interactive"),
        (["--initrd", "/dev/null"], "--warm needs the stock userland: leave out --warm or --initrd"),
        (["--cpu", "max", "--engine-option", "allow-abort=on"], "cannot be saved"),
    ],
)
def test_a_warm_start_that_cannot_be_is_refused(more: list[str], words: str, cache: Path) -> None:
    done = subprocess.run(
        [*PVTIME, *WARM, *more],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
        env=os.environ | {"PVTIME_CACHE": str(cache)},
    )
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (cache / "warm").exists() or not list((cache / "warm").glob("*/"))
