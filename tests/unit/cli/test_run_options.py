# SPDX-License-Identifier: GPL-2.0-or-later
"""Options of every run: items and files of --steal become a schedule; the counter is an engine option."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from pvtime.cli.run_options import parse_steal, run_options
from pvtime.engine.base import COUNTER_FREQUENCY
from pvtime.errors import UsageError
from pvtime.inject.schedule import Schedule
from pvtime.run.options import RunOptions


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


def parsed(*arguments: str) -> RunOptions:
    """Return the options that a command gets."""
    got: list[RunOptions] = []

    def command(options: RunOptions) -> int:
        got.append(options)
        return 0

    click.command()(run_options(command)).main(list(arguments), standalone_mode=False)
    return got[0]


def test_the_counter_s_frequency_is_an_option_of_the_engine_and_lpt_is_off_by_default() -> None:
    assert not parsed().lpt
    assert parsed().engine_options == {}
    options = parsed("--lpt", "--counter-frequency", "25000000", "--engine-option", "internals=off")
    assert options.lpt
    assert options.engine_options == {"internals": "off", COUNTER_FREQUENCY: "25000000"}


@pytest.mark.parametrize("hz", ["0", "999999", "2000000001", "62.5M"])
def test_a_frequency_that_no_counter_has_is_refused(hz: str) -> None:
    with pytest.raises(click.BadParameter, match="give 1000000 to 2000000000"):
        parsed("--counter-frequency", hz)
