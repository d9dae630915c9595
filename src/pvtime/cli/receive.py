# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime receive``."""

from __future__ import annotations

import click

from pvtime.cli.run_options import run_options
from pvtime.run.options import RunOptions

__all__ = ["receive_command"]


@click.command("receive", short_help="Wait for a migrating machine and resume it")
@click.argument("address")
@run_options
def receive_command(address: str, options: RunOptions) -> int:
    """Wait at ADDRESS for a machine that pvtime migrate sends, and resume it.

    ADDRESS is unix:PATH or tcp:HOST:PORT. The connection is neither encrypted nor authenticated: over a
    network, use a tunnel. Times that pvtime run counts from userland on count from the start here.

    \b
    Example (then pvtime migrate SOCKET unix:peer, from the same directory):
        pvtime receive unix:peer
    """  # noqa: D301 (click wants the character)
    from pvtime.run.run_machine import run_machine
    from pvtime.run.source import FromMigration

    return run_machine(FromMigration(address), options)
