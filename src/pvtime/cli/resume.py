# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime resume``."""

from __future__ import annotations

import click

__all__ = ["resume_command"]


@click.command("resume", short_help="Let a paused machine run again")
@click.argument("machine")
def resume_command(machine: str) -> None:
    """Let MACHINE run again after pvtime pause.

    MACHINE is a name that pvtime ps lists, or the path of a --control socket.

    \b
    Example:
        pvtime resume web
    """  # noqa: D301 (click wants the character)
    from pvtime.run.control_client import ask
    from pvtime.run.control_protocol import ResumeRequest, StateResult
    from pvtime.run.runtime_dir import socket_of

    ask(socket_of(machine), ResumeRequest(), StateResult)
    click.echo(f"{machine} runs again")
