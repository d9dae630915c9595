# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime receive``."""

from __future__ import annotations

from pathlib import Path

import click

from pvtime.cli.params import endpoint_options
from pvtime.cli.run_options import run_options
from pvtime.run.options import RunOptions

__all__ = ["receive_command"]


@click.command("receive", short_help="Wait for a migrating machine and resume it")
@click.argument("address")
@endpoint_options
@run_options
def receive_command(address: str, key: Path | None, insecure: bool, options: RunOptions) -> int:
    """Wait at ADDRESS for a machine that pvtime migrate sends, and resume it.

    ADDRESS is unix:PATH or tcp:HOST:PORT. A peer that sends no machine is dropped, and the wait continues.
    Times that pvtime run counts from userland count from the start here.

    \b
    Examples, and what the source then needs; pvtime.key is copied there:
        pvtime receive unix:peer
        pvtime migrate SOCKET unix:peer
        pvtime receive tcp:0.0.0.0:7000 --key pvtime.key
        pvtime migrate SOCKET tcp:HOST:7000 --key pvtime.key
    """  # noqa: D301 (click wants the character)
    from pvtime.run.run_machine import run_machine
    from pvtime.run.source import FromMigration
    from pvtime.snapshot.endpoint import Endpoint

    return run_machine(FromMigration(Endpoint.parse(address, key, insecure)), options)
