# SPDX-License-Identifier: GPL-2.0-or-later
"""Seals: whatever changes a file makes its seal invalid."""

from __future__ import annotations

import mmap
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pvtime.seal import Seal, await_tick, seal_of


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a file that was written some time ago."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    path.chmod(0o600)
    await_tick()
    return path


def seal(path: Path) -> Seal | None:
    """Return the seal that a file has now."""
    return seal_of(path.stat())


def write_and_hide(path: Path) -> None:
    """Write as many bytes, and put back the time of the last write."""
    status = path.stat()
    path.write_bytes(b"CONTENT")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace(path: Path) -> None:
    """Put a copy with the same times in the file's place."""
    shutil.copy2(path, path.with_name("copy"))
    path.with_name("copy").rename(path)


def write_by_mapping(path: Path) -> None:
    """Write through shared memory."""
    with path.open("r+b") as stream, mmap.mmap(stream.fileno(), 0) as memory:
        memory[0] = 0


CHANGES = (
    write_and_hide,
    replace,
    write_by_mapping,
    lambda path: os.truncate(path, 3),
    lambda path: os.utime(path, (0, 0)),
    lambda path: path.chmod(0o640),
    lambda path: os.link(path, path.with_name("link")),
)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_makes_another_seal(file: Path, change: Callable[[Path], object]) -> None:
    before = seal(file)
    assert before is not None
    change(file)
    await_tick()
    after = seal(file)
    assert after is not None
    assert after != before


def test_reading_and_moving_a_file_leave_its_seal(file: Path, tmp_path: Path) -> None:
    before = seal(file)
    file.read_bytes()
    file.parent.joinpath("other").mkdir()
    await_tick()
    assert before is not None
    assert seal(file) == before


def test_a_file_that_others_may_write_has_none(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for mode in (0o620, 0o602):
        file.chmod(mode)
        await_tick()
        assert seal(file) is None
    file.chmod(0o600)
    await_tick()
    assert seal(file) is not None
    monkeypatch.setattr(os, "geteuid", lambda: file.stat().st_uid + 1)
    assert seal(file) is None


def test_a_file_that_was_written_within_this_tick_has_none(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = file.stat().st_ctime_ns
    monkeypatch.setattr("time.clock_gettime_ns", lambda _clock: written)
    assert seal(file) is None
    monkeypatch.setattr("time.clock_gettime_ns", lambda _clock: written + 1)
    assert seal(file) is not None
