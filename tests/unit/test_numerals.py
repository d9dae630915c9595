# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers that users write, and what looks like one."""

from __future__ import annotations

import math

import click
import pytest

from pvtime.cli.command import COMMANDS, group, main
from pvtime.cli.params import parse_size
from pvtime.errors import UsageError
from pvtime.inject.schedule import Schedule
from pvtime.numerals import parse_decimal, parse_whole

NO_NUMBERS = [
    "１２",  # noqa: RUF001 (full-width digits)
    "١٢",  # Arabic-Indic
    "1२",  # Devanagari
    "²",
    "½",
    "1_0",
    "+1",
    " 1",
    "1 ",
    "1\n",
    "\u00a01",
    "0x1",
    "inf",
    "nan",
    "1,5",
    "",
]


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("007", 7), ("9" * 18, 10**18 - 1)])
def test_whole_numbers(text: str, number: int) -> None:
    assert parse_whole(text) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [("1", 1.0), ("0.25", 0.25), (".5", 0.5), ("2.", 2.0), ("1e3", 1000.0), ("1e999", math.inf)],
)
def test_decimal_numbers(text: str, number: float) -> None:
    assert parse_decimal(text) == number


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_what_looks_like_a_number_is_none(text: str) -> None:
    for parse in (parse_whole, parse_decimal):
        with pytest.raises(ValueError, match="is not a"):
            parse(text)
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)
    items = [f"{text}%", f"{text}s", f"10%/{text}s", f"10%@{text}", f"10%@0-{text}"]
    if "," not in text:  # else it is two vCPUs
        items.append(f"{text}:10%")
    for item in items:
        with pytest.raises(UsageError, match="steal schedule item"):
            Schedule.parse([item])


def test_a_unit_that_only_looks_like_k_is_none() -> None:
    # A KeyError: case was ignored in all of Unicode.
    with pytest.raises(ValueError, match="is not a size"):
        parse_size("1\u212a")


def numeric_options() -> list[tuple[str, str]]:
    """Return every command with each of its options that take a number."""
    found = []
    for name in COMMANDS:
        command = group.get_command(click.Context(group), name)
        assert command is not None
        for option in command.params:
            words = (getattr(option, "metavar", None) or "").split()
            if {"N", "SECONDS", "SIZE", "MIB", "VCPU"}.intersection(words):
                found.append((name, option.opts[0]))
    return found


def test_every_command_with_numbers_is_tried() -> None:
    assert {name for name, _ in numeric_options()} >= {"cost", "judge", "lab", "receive", "restore", "run"}


@pytest.mark.parametrize(("name", "option"), numeric_options())
def test_no_option_takes_what_looks_like_a_number(
    name: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in NO_NUMBERS:
        assert main([name, option, text, "x"]) == 2, text
        err = capsys.readouterr().err
        assert option in err
        assert err.count("\n") == 1
