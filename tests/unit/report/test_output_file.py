# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that a user asks for: whole or not at all, never through another user's link, refused by name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pvtime.cli.command import main
from pvtime.errors import UsageError
from pvtime.lab.protocol import AgentFrame
from pvtime.lab.result import ResultReader
from pvtime.report.output_file import NewFile, open_stream, refuse_unwritable, write_whole

TEXT = "a report\n"
WHAT = "the report"


def test_the_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    path.chmod(0o640)
    write_whole(path, TEXT, WHAT)
    assert path.read_text() == TEXT
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["report.json"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("target")
    write_whole(tmp_path / "link", TEXT, WHAT)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == TEXT


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's link")
def test_another_users_link_in_a_directory_for_all_is_not_written_through(tmp_path: Path) -> None:
    # Its owner chose the file that root then wrote.
    shared, target = tmp_path / "tmp", tmp_path / "target"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "link").symlink_to(target)
    os.lchown(shared / "link", 65534, 65534)
    with pytest.raises(UsageError, match="another user's symbolic link"):
        refuse_unwritable(shared / "link", WHAT)
    with pytest.raises(UsageError, match="another user's symbolic link"):
        write_whole(shared / "link", TEXT, WHAT)
    with pytest.raises(UsageError, match="another user's symbolic link"):
        open_stream(shared / "link", WHAT)
    with pytest.raises(UsageError, match="another user's symbolic link"):
        NewFile(shared / "link", WHAT)
    assert main(["judge", "--write-image", str(shared / "link")]) == 2, "it wrote through the link"
    assert not target.exists()


def test_no_name_beside_the_file_can_be_foreseen(tmp_path: Path) -> None:
    # lab --out wrote to NAME.part, which another user could have linked to any file.
    with ResultReader({"out": tmp_path / "out"}, None, None) as reader:
        reader.take(AgentFrame.OPEN, b"out")
        (first,) = os.listdir(tmp_path)
    with ResultReader({"out": tmp_path / "out"}, None, None) as reader:
        reader.take(AgentFrame.OPEN, b"out")
        (second,) = os.listdir(tmp_path)
    assert len({first, second, "out", "out.part"}) == 4
    assert os.listdir(tmp_path) == []


def test_a_file_that_comes_in_parts_is_there_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "image"
    file = NewFile(path, WHAT)
    file.write(b"\xff")
    assert not path.exists()
    file.write(b"\0")
    file.finish()
    file.discard()
    assert path.read_bytes() == b"\xff\0"
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    with pytest.raises(UsageError, match="cannot write the report to /dev/full: No space left on device"):
        write_whole(Path("/dev/full"), b"x", WHAT)


def test_the_check_before_the_boot_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    refuse_unwritable(tmp_path / "old", WHAT)
    refuse_unwritable(tmp_path / "new", WHAT)
    refuse_unwritable(Path("/dev/null"), WHAT)
    assert (tmp_path / "old").read_text() == "old"
    assert os.listdir(tmp_path) == ["old"]


@pytest.mark.parametrize(
    "path", ["/", "/proc/report.json", "no/such/folder/report.json", "/dev/null/x", "x" * 300]
)
def test_an_unwritable_path_is_refused_and_named(path: str) -> None:
    with pytest.raises(UsageError) as refused:
        refuse_unwritable(Path(path), WHAT)
    assert path in str(refused.value)
