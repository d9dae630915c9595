# SPDX-License-Identifier: GPL-2.0-or-later
"""Options of every command that runs a machine, wherever it comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from pvtime.cli.params import key_values, seconds
from pvtime.errors import UsageError

if TYPE_CHECKING:
    from pvtime.inject.schedule import Schedule
    from pvtime.run.execute import Run

__all__ = ["Showing", "showing"]

F = TypeVar("F", bound=Callable[..., Any])


def _save_at(
    ctx: click.Context, param: click.Parameter, value: tuple[str, Path] | None
) -> tuple[float, Path] | None:
    if value is None:
        return None
    span = seconds(ctx, param, value[0])
    assert span is not None, "there is a value"
    return span, value[1]


OPTIONS: Final = (
    click.option(
        "--engine-option",
        "options",
        multiple=True,
        callback=key_values,
        metavar="KEY=VALUE",
        help="For the engine, such as internals=off.",
    ),
    click.option(
        "--steal",
        multiple=True,
        metavar="[VCPUS:]AMOUNT[/PERIOD][@FROM[-TO]]",
        help="Keep vCPUs from running: 30% of the time; 1:200ms/1s@5-10: vCPU 1 in seconds 5 to 10; "
        "4s@10: once. May be repeated; @FILE has one a line. See docs/steal.md.",
    ),
    click.option(
        "--duration",
        callback=seconds,
        metavar="SECONDS",
        help="End after this long, counted from userland on.",
    ),
    click.option(
        "--save-at",
        type=(str, click.Path(path_type=Path)),
        callback=_save_at,
        metavar="SECONDS DIRECTORY",
        help="Save the machine to a new directory and end, that long after userland came up.",
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


@dataclass(frozen=True)
class Showing:
    """What was said by these options."""

    options: dict[str, str]
    steal: tuple[str, ...]
    duration: float | None
    save_at: tuple[float, Path] | None
    control: Path | None
    report: Path | None
    quiet: bool
    interactive: bool

    def schedule(self) -> Schedule:
        """Return what is to be stolen on purpose.

        :raises UsageError: it is no schedule.
        """
        from pvtime.cli.stealing import schedule

        return schedule(self.steal)

    def run(self) -> Run:
        """Return it as what is run.

        :raises UsageError: options that do not go together.
        """
        from pvtime.run.execute import Run

        if self.quiet and self.interactive:
            raise UsageError("--quiet and --interactive do not go together: leave one out")
        if self.save_at is not None and self.duration is not None and self.save_at[0] >= self.duration:
            raise UsageError("--save-at is later than --duration, which ends the run: leave one out")
        return Run(self.duration, self.report, self.quiet, self.interactive, self.control, self.save_at)


def showing(command: F) -> F:
    """Give a command these options."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command
