# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime pause``."""

from __future__ import annotations

import click

__all__ = ["pause_command"]


@click.command("pause", short_help="Pause a running machine")
@click.argument("machine")
def pause_command(machine: str) -> None:
    """Pause MACHINE until pvtime resume: nothing runs, and nothing is stolen meanwhile.

    MACHINE is a name that pvtime ps lists, or the path of a --control socket. A paused guest's clocks stand
    still; with run --steal-pauses they go on, and the pause is stolen time.

    \b
    Example:
        pvtime pause web
    """  # noqa: D301 (click wants the character)
    from pvtime.run.control_client import ask
    from pvtime.run.control_protocol import PauseRequest, StateResult
    from pvtime.run.runtime_dir import socket_of

    ask(socket_of(machine), PauseRequest(), StateResult)
    click.echo(f"{machine} is paused")
