# SPDX-License-Identifier: GPL-2.0-or-later
"""Options of every run: the items and files of --steal become a schedule."""

from __future__ import annotations

from pathlib import Path

import pytest

from pvtime.cli.run_options import parse_steal
from pvtime.errors import UsageError
from pvtime.inject.schedule import Schedule


def test_items_and_files_of_them_make_one_schedule(tmp_path: Path) -> None:
    file = tmp_path / "noisy"
    file.write_text("# a neighbour\n30%@5-10   # of each 100 ms\n\n  0:4s@12\n")
    assert parse_steal(["1:10%", f"@{file}"]) == Schedule.parse(["1:10%", "30%@5-10", "0:4s@12"])
    assert not parse_steal([])


def test_a_file_may_come_from_an_editor_that_marks_utf8_and_ends_lines_with_cr(tmp_path: Path) -> None:
    file = tmp_path / "noisy"
    file.write_bytes(b"\xef\xbb\xbf30%@5-10\r\n# no more\r\n")
    assert parse_steal([f"@{file}"]) == Schedule.parse(["30%@5-10"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"10%\n\n120% # much", ":3: steal schedule item '120%': the amount is longer than the period"),
        (b"\xff", "is not a text file"),
        (None, "No such file"),
        (b"# nothing\n\n", "has no item"),
        (b"#" * (1 << 17), "larger than 64 KiB"),
    ],
)
def test_a_file_that_is_none_is_refused_by_name_and_line(
    content: bytes | None, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "noisy"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError) as refused:
        parse_steal(["10%", f"@{file}"])
    assert str(file) in str(refused.value)
    assert said in str(refused.value)


def test_a_device_is_not_read_without_end() -> None:
    # /dev/zero took 1.4 GB in 4 s.
    with pytest.raises(UsageError, match=r"/dev/zero is not a regular file"):
        parse_steal(["@/dev/zero"])
