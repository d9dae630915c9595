# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime help``."""

from __future__ import annotations

import click

from pvtime.errors import UsageError

__all__ = ["help_command"]


@click.command("help", short_help="Show the help of pvtime or of a command")
@click.argument("command", required=False)
@click.pass_context
def help_command(ctx: click.Context, command: str | None) -> None:
    """Show the help of COMMAND, or of pvtime itself.

    \b
    Example:
        pvtime help run
    """  # noqa: D301 (click wants the character)
    parent = ctx.parent
    assert parent is not None, "it is a command of the group"
    assert isinstance(parent.command, click.Group)
    if command is None:
        click.echo(parent.get_help())
        return
    described = parent.command.get_command(parent, command)
    if described is None:
        raise UsageError(f"there is no command {command!r}: pvtime help lists them")
    with click.Context(described, parent, info_name=command) as child:
        click.echo(child.get_help())
