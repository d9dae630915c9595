# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime console``."""

from __future__ import annotations

import click

__all__ = ["console_command"]


@click.command("console", short_help="Attach to a running machine's console")
@click.argument("machine")
def console_command(machine: str) -> None:
    """Connect this terminal to the console of MACHINE; Ctrl-] q detaches, and the machine runs on.

    MACHINE is a name that pvtime ps lists, or the path of a --control socket. The last 4 KiB of the output
    come first. The stock guest has a shell there if it was started with --interactive. Without a terminal,
    what standard input has is sent, and the output printed until the machine ends.

    \b
    Example:
        pvtime run --name web --interactive --detach
        pvtime console web
    """  # noqa: D301 (click wants the character)
    from pvtime.run.console_client import attach
    from pvtime.run.runtime_dir import socket_of

    attach(socket_of(machine))
