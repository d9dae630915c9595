# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime steal``."""

from __future__ import annotations

import click

from pvtime.errors import UsageError

__all__ = ["steal_command"]

OFF = "off"


@click.command("steal", short_help="Change the steal of a running machine")
@click.argument("machine")
@click.argument("items", nargs=-1, required=True, metavar="ITEM...|off")
def steal_command(machine: str, items: tuple[str, ...]) -> None:
    """Steal time from the vCPUs of MACHINE by another schedule, at once.

    MACHINE is a name that pvtime ps lists, or the path of a --control socket. ITEM is as that of run --steal
    (docs/steal.md): [VCPUS:]AMOUNT[/PERIOD][@FROM[-TO]], or @FILE; its times count from now. The items
    replace the present schedule; off ends it, and with it a hold in progress.

    \b
    Examples:
        pvtime steal web 1:30%
        pvtime steal web 0:4s@2 1:20%
        pvtime steal web off
    """  # noqa: D301 (click wants the character)
    from pvtime.cli.run_options import parse_steal
    from pvtime.errors import one_line
    from pvtime.run.control_client import ask
    from pvtime.run.control_protocol import StealRequest, StealResult
    from pvtime.run.runtime_dir import socket_of

    if OFF in items and len(items) > 1:
        raise UsageError(f"{OFF} ends all injected steal: give it alone, or leave it out")
    texts = [] if items == (OFF,) else [str(item) for item in parse_steal(items).items]
    result = ask(socket_of(machine), StealRequest(texts), StealResult)
    click.echo(f"{machine}: steal {one_line(', '.join(result.steal)) or OFF}")
