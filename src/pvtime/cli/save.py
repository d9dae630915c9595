# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime save`` and ``pvtime migrate``: what is asked of a machine that runs with ``--control``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

__all__ = ["migrate_command", "save_command"]

_SOCKET = click.argument("socket", type=click.Path(path_type=Path))
_JSON = click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")


@click.command("save")
@_SOCKET
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--keep-running", is_flag=True, help="Let the machine go on after it was saved.")
@_JSON
def save_command(socket: Path, directory: Path, keep_running: bool, as_json: bool) -> None:
    """Save the machine with the control SOCKET to a new DIRECTORY, and end it.

    The directory is complete or absent, whatever happens meanwhile. pvtime restore goes on with it.
    """
    from pvtime.report import units
    from pvtime.run.control import ask
    from pvtime.run.requests import Save, Saved

    saved = ask(socket, Save(str(directory.absolute()), keep_running), Saved)
    if as_json:
        click.echo(json.dumps(asdict(saved)))
    else:
        click.echo(f"saved {units.size(saved.bytes)} in {units.time(saved.pause_ns)}: {directory}")


@click.command("migrate")
@_SOCKET
@click.argument("address")
@_JSON
def migrate_command(socket: Path, address: str, as_json: bool) -> None:
    """Move the machine with the control SOCKET to the process that runs pvtime receive ADDRESS.

    Its memory is sent while it runs; it is stopped for what is left then.
    """
    from pvtime.report import units
    from pvtime.run.control import ask
    from pvtime.run.requests import Migrate, Moved
    from pvtime.snapshot.address import Address

    def tell(number: int, size: int) -> None:
        if not as_json:
            click.echo(f"round {number}: {units.size(size)} of memory")

    # A path is from here, and not from where the machine's process is.
    peer = Address.parse(address).absolute()
    moved = ask(socket, Migrate(str(peer)), Moved, tell)
    if as_json:
        click.echo(json.dumps(asdict(moved)))
        return
    click.echo(
        f"moved in {units.time(moved.total_ns)}: {units.size(moved.sent_bytes)} sent, "
        f"paused for {units.time(moved.pause_ns)} with the last {units.size(moved.paused_bytes)}"
    )
