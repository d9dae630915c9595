# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime migrate``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from pvtime.cli.params import endpoint_options

__all__ = ["migrate_command"]


@click.command("migrate", short_help="Move a running machine to another process")
@click.argument("machine")
@click.argument("address")
@endpoint_options
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object with the figures.")
def migrate_command(machine: str, address: str, key: Path | None, insecure: bool, as_json: bool) -> None:
    """Move a running machine to the process that runs pvtime receive ADDRESS.

    MACHINE is a name that pvtime ps lists, or the path of a --control socket. Most of its memory is sent
    while it runs; it pauses only while the rest is sent.

    \b
    Examples:
        pvtime run --name web &
        pvtime receive unix:peer &
        pvtime migrate web unix:peer
        pvtime migrate web tcp:there:7000 --key pvtime.key
    """  # noqa: D301 (click wants the character)
    from pvtime.report import units
    from pvtime.run.control_client import ask
    from pvtime.run.control_protocol import MigrateRequest, RoundProgress
    from pvtime.run.runtime_dir import socket_of
    from pvtime.snapshot.codec import decode
    from pvtime.snapshot.endpoint import Endpoint
    from pvtime.snapshot.send import MigrationResult

    def show_round(document: dict[str, Any]) -> None:
        sent = decode(RoundProgress, document, "the answer")
        if not as_json:
            click.echo(f"round {sent.round}: {units.size(sent.bytes)} of memory sent")

    # A relative path is relative to this process's directory, not to that of the machine's process.
    peer = Endpoint.parse(address, key, insecure).absolute()
    moved = ask(socket_of(machine), MigrateRequest.to(peer), MigrationResult, show_round)
    if as_json:
        click.echo(json.dumps({"schema": 1} | asdict(moved)))
        return
    click.echo(
        f"moved in {units.time(moved.total_ns)}: {units.size(moved.sent_bytes)} sent, "
        f"paused for {units.time(moved.pause_ns)} while the last {units.size(moved.paused_bytes)} were sent"
    )
