# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime merge``."""

from __future__ import annotations

from pathlib import Path

import click

from pvtime.cli.params import FILE_NAME

__all__ = ["merge_command"]


@click.command("merge", short_help="Join judgements into one table")
@click.argument("judgements", nargs=-1, required=True, type=FILE_NAME, metavar="FILE...")
def merge_command(judgements: tuple[Path, ...]) -> int:
    """Print a table in Markdown of the judgements that pvtime judge --json has written to each FILE.

    The exit code is 1 if stolen time is wrong in one of them, else 4 if one has no verdict, else 0.

    \b
    Example:
        pvtime judge --json --vcpus 1 > one.json
        pvtime judge --json --vcpus 4 > four.json
        pvtime merge one.json four.json
    """  # noqa: D301 (click wants the character)
    from pvtime.judge.merged import read_judgement, table
    from pvtime.judge.session import ExitCode

    found = [read_judgement(path) for path in judgements]
    for line in table(found):
        click.echo(line)
    codes = {each.code for each in found}
    worst = (ExitCode.WRONG, ExitCode.CANNOT_TELL)
    return int(next((code for code in worst if code in codes), ExitCode.RIGHT))
