# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime restore`` and ``pvtime receive``: machines that ran before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pvtime.cli.params import key_values, seconds
from pvtime.errors import UsageError

if TYPE_CHECKING:
    from pvtime.cli.source import Source

__all__ = ["receive_command", "restore_command"]

F = TypeVar("F", bound=Callable[..., Any])

SHOWING = (
    click.option(
        "--engine-option",
        "options",
        multiple=True,
        callback=key_values,
        metavar="KEY=VALUE",
        help="For the engine, such as internals=off.",
    ),
    click.option("--duration", callback=seconds, metavar="SECONDS", help="End after this long."),
    click.option(
        "--save-at",
        type=(click.FloatRange(min=0, min_open=True), click.Path(path_type=Path)),
        metavar="SECONDS DIRECTORY",
        help="Save the machine to a new directory and end, after that long.",
    ),
    click.option(
        "--control",
        type=click.Path(path_type=Path),
        metavar="SOCKET",
        help="Listen here for pvtime save and pvtime migrate.",
    ),
    click.option(
        "--report", type=click.Path(allow_dash=True, path_type=Path), help="Write JSON here; - is stdout."
    ),
    click.option(
        "--quiet", is_flag=True, help="Print the last table only; with --report -, only the report."
    ),
    click.option("--interactive", is_flag=True, help="The guest's console on this terminal."),
)
"""Options that both have."""


def _showing(command: F) -> F:
    for option in reversed(SHOWING):
        command = option(command)
    return command


@click.command("restore")
@click.argument("directory", type=click.Path(path_type=Path))
@_showing
def restore_command(directory: Path, options: dict[str, str], **showing: Any) -> int:
    """Go on with the machine that was saved to DIRECTORY, which stays as it is.

    Its guest notices by its clocks only. The time that it was saved is not stolen.
    """
    from pvtime.cli.source import Restoring

    return _execute(Restoring(directory, options), **showing)


@click.command("receive")
@click.argument("address")
@_showing
def receive_command(address: str, options: dict[str, str], **showing: Any) -> int:
    """Wait at ADDRESS (unix:PATH, tcp:HOST:PORT) for a machine that pvtime migrate sends; go on with it.

    What is sent is neither encrypted nor authenticated: over a network, send it through a tunnel.
    """
    from pvtime.cli.source import Arriving

    return _execute(Arriving(address, options), **showing)


def _execute(
    source: Source,
    *,
    duration: float | None,
    save_at: tuple[float, Path] | None,
    control: Path | None,
    report: Path | None,
    quiet: bool,
    interactive: bool,
) -> int:
    from pvtime.cli.running import Run, execute

    if quiet and interactive:
        raise UsageError("--quiet and --interactive do not go together: leave one out")
    return execute(Run(duration, report, quiet, interactive, control, save_at), source)
