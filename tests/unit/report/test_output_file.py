# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that a user asks for: whole or not at all, never through another user's link, refused by name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pvtime.errors import UsageError
from pvtime.report.output_file import refuse_unwritable, write_whole

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
    assert not target.exists()


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
