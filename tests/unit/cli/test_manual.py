# SPDX-License-Identifier: GPL-2.0-or-later
"""The manual page, which a tool writes from the commands' help."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from pvtime.cli.command import COMMANDS, group

TOOL = Path(__file__).parents[3] / "tools" / "write-man"
MACROS = {"TH", "SH", "SS", "PP", "TP", "B", "I", "nf", "fi"}


@pytest.fixture(scope="module")
def page() -> str:
    """Return the page."""
    return subprocess.run([sys.executable, TOOL], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_the_manual_has_every_command_and_all_its_options(page: str, name: str) -> None:
    command = group.get_command(click.Context(group), name)
    assert command is not None
    part = page.partition(f".SS pvtime {name} ")[2].partition(".SS ")[0].replace("\\-", "-")
    assert f"    pvtime {name}" in part, "no example"
    for option in command.params:
        if isinstance(option, click.Option):
            assert f".B {option.opts[0]}" in part
            assert (option.help or "").partition(". ")[0] in part


def test_nothing_in_the_manual_is_taken_for_a_request(page: str) -> None:
    assert {line[1:].split()[0] for line in page.splitlines() if line.startswith((".", "'"))} <= MACROS
    assert not re.search(r"\\[^-e&]", page)
    assert not re.search(r"(?<!\\)-", page.partition("\n")[2].replace(".SH", ""))
    if groff := shutil.which("groff"):
        done = subprocess.run(
            [groff, "-man", "-ww", "-Tutf8"], input=page, capture_output=True, text=True, check=True
        )
        assert done.stderr == ""
        assert "--boot-timeout SECONDS" in re.sub("\x1b.*?m|.\b", "", done.stdout)
