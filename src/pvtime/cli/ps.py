# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime ps``."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from pvtime.run.control_protocol import MachineInfo
    from pvtime.run.roll_call import Answer

__all__ = ["ps_command", "table_lines"]

SCHEMA: Final = 1
"""Version of the JSON document."""

INTERVAL_S: Final = 0.3
"""Time over which the present share of stolen time is measured."""


@click.command("ps", short_help="List the machines that run")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object with the machines.")
def ps_command(as_json: bool) -> None:
    """List your machines that run, with the stolen time of all their vCPUs together.

    NOW is the share of the last 0.3 s. Control sockets whose process was killed are removed. docs/control.md
    has the fields of --json.

    \b
    Example:
        pvtime run --name web --detach
        pvtime ps
    """  # noqa: D301 (click wants the character)
    from pvtime.run.roll_call import call_the_roll

    first = call_the_roll()
    before = {answer.name: answer.info for answer in first if answer.info is not None}
    if before:
        time.sleep(INTERVAL_S)
    # A machine that does not answer is waited for once.
    silent = [answer for answer in first if answer.info is None]
    answers = sorted([*silent, *call_the_roll(only=before)], key=lambda answer: answer.name)
    shares = [_share(before.get(answer.name), answer.info) for answer in answers]
    if as_json:
        click.echo(json.dumps({"schema": SCHEMA, "machines": list(map(_document, answers, shares))}))
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in table_lines([HEADINGS, *map(_row, answers, shares)], width):
        click.echo(line)


def table_lines(rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """Return a table's lines, the headings first.

    Where a terminal of ``width`` columns has no room for all, the last one that has room for its heading is
    cut, and those behind it are left out.
    """
    lines = [""] * len(rows)
    for column in zip(*rows, strict=True):
        longest = max(map(len, column))
        room = longest if width is None else width - len(lines[0])
        if room < len(column[0]):
            break
        if longest > room:
            column = tuple(cell if len(cell) <= room else cell[: room - 1] + "…" for cell in column)
        lines = [line + cell.ljust(longest) + "  " for line, cell in zip(lines, column, strict=True)]
    return [line.rstrip() for line in lines]


HEADINGS: Final = ("NAME", "PID", "STATE", "VCPUS", "UPTIME", "STOLEN", "NOW", "STEAL")


def _share(before: MachineInfo | None, after: MachineInfo | None) -> float | None:
    """Return the stolen share of the time between two answers; None: not known."""
    if before is None or after is None or before.pid != after.pid:
        return None
    elapsed = after.vcpu_elapsed_ns - before.vcpu_elapsed_ns
    return (after.stolen_ns - before.stolen_ns) / elapsed if elapsed > 0 else None


def _document(answer: Answer, share: float | None) -> dict[str, object]:
    if answer.info is None:
        return {"name": answer.name, "error": answer.error}
    return asdict(answer.info) | {"stolen_share": share}


def _row(answer: Answer, share: float | None) -> tuple[str, ...]:
    from pvtime.errors import one_line
    from pvtime.report import units

    info = answer.info
    if info is None:
        return answer.name, "-", "no answer", "-", "-", "-", "-", "-"
    return (
        answer.name,
        str(info.pid),
        one_line(info.state),
        str(info.vcpus),
        units.time(info.elapsed_ns),
        units.time(info.stolen_ns),
        "-" if share is None else f"{share:.1%}",
        one_line(", ".join(info.steal)) or "-",
    )
