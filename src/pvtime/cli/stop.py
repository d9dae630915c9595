# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime stop``."""

from __future__ import annotations

import click

__all__ = ["stop_command"]


@click.command("stop", short_help="End a running machine")
@click.argument("machine")
@click.option("--now", is_flag=True, help="Do not ask the guest to power off first.")
def stop_command(machine: str, now: bool) -> None:
    """End MACHINE: ask its guest to power off, and stop it if it has not begun to within 2 s.

    MACHINE is a name that pvtime ps lists, or the path of a --control socket. A guest without the stock
    userland cannot be asked and is stopped at once.

    \b
    Example:
        pvtime stop web
    """  # noqa: D301 (click wants the character)
    from pvtime.errors import one_line
    from pvtime.run.control_client import ask
    from pvtime.run.control_protocol import RunEnd, StopRequest
    from pvtime.run.runtime_dir import socket_of

    end = ask(socket_of(machine), StopRequest(now), RunEnd)
    click.echo(f"{machine} has ended: {one_line(end.outcome)}")
