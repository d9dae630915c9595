# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime reset``."""

from __future__ import annotations

import click

__all__ = ["reset_command"]


@click.command("reset", short_help="Reset a running machine")
@click.argument("machine")
def reset_command(machine: str) -> None:
    """Reset MACHINE, which boots again, as its own kernel would for a reboot.

    MACHINE is a name that pvtime ps lists, or the path of a --control socket. The schedule of injected steal
    continues.

    \b
    Example:
        pvtime reset web
    """  # noqa: D301 (click wants the character)
    from pvtime.run.control_client import ask
    from pvtime.run.control_protocol import ResetRequest, StateResult
    from pvtime.run.runtime_dir import socket_of

    ask(socket_of(machine), ResetRequest(), StateResult)
    click.echo(f"{machine} was reset")
