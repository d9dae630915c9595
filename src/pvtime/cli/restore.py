# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime restore``."""

from __future__ import annotations

from pathlib import Path

import click

from pvtime.cli.params import FILE_NAME
from pvtime.cli.run_options import run_options
from pvtime.run.options import RunOptions

__all__ = ["restore_command"]


@click.command("restore", short_help="Resume a saved machine")
@click.argument("directory", type=FILE_NAME)
@run_options
def restore_command(directory: Path, options: RunOptions) -> int:
    """Resume the machine that was saved to DIRECTORY, which is not changed.

    The guest notices nothing but its clocks: the time for which it was saved does not count as stolen.
    Times that pvtime run counts from userland count from the start here.

    \b
    Examples:
        pvtime run --save-at 5 machine
        pvtime restore machine --duration 10
    """  # noqa: D301 (click wants the character)
    from pvtime.run.run_machine import run_machine
    from pvtime.run.source import FromSaved

    return run_machine(FromSaved(directory), options)
