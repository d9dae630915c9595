# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime save``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from pvtime.cli.params import FILE_NAME

__all__ = ["save_command"]


@click.command("save", short_help="Save a running machine to a directory")
@click.argument("machine")
@click.argument("directory", type=FILE_NAME)
@click.option("--keep-running", is_flag=True, help="Let the machine run on after it was saved.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object with the figures.")
def save_command(machine: str, directory: Path, keep_running: bool, as_json: bool) -> None:
    """Save a running machine to a new DIRECTORY, and end it.

    MACHINE is a name that pvtime ps lists, or the path of a --control socket. The directory is complete or
    absent, whatever happens meanwhile. pvtime restore resumes the machine.

    \b
    Example:
        pvtime run --name web &
        pvtime save web machine
    """  # noqa: D301 (click wants the character)
    from pvtime.report import units
    from pvtime.run.control_client import ask
    from pvtime.run.control_protocol import SaveRequest
    from pvtime.run.exporter import SaveResult
    from pvtime.run.runtime_dir import socket_of

    saved = ask(socket_of(machine), SaveRequest(str(directory.absolute()), keep_running), SaveResult)
    if as_json:
        click.echo(json.dumps({"schema": 1} | asdict(saved)))
    else:
        click.echo(f"saved {units.size(saved.bytes)} in {units.time(saved.pause_ns)}: {directory}")
