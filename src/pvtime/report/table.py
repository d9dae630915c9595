# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables of a run, drawn by rich.

rich is imported where it draws, not before: it costs 26 to 41 ms, more than click, and a run that prints no
table (``--quiet --report -``) need not pay it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, TextIO

from pvtime.report import units

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pvtime.report.model import Moment, RunReport, VcpuRow

__all__ = ["PLAIN_WIDTH", "moment_table", "open_console", "print_report", "vcpu_notes"]

PLAIN_WIDTH = 200
"""Columns where the output is not a terminal: lines are long there, not broken."""
MIN_WIDTH = 80
"""Columns; on a narrower terminal lines wrap, which is better than figures that are cut short."""

COLUMNS = (
    "vCPU",
    "ran",
    "stolen:\ntruth",
    "of which\ninjected",
    "stolen:\nstructure",
    "stolen:\nguest",
    "structure\n- truth",
    "guest\n- truth",
    "stolen\nof wall",
    "loads",
)
INJECTED, OF_WALL = COLUMNS.index("of which\ninjected"), COLUMNS.index("stolen\nof wall")


def open_console(file: TextIO) -> Console:
    """Return a console on ``file``: it has colours and bold text on a terminal, unless NO_COLOR is set."""
    from rich.console import Console

    width = max(shutil.get_terminal_size().columns, MIN_WIDTH) if file.isatty() else PLAIN_WIDTH
    # Of itself rich leaves bold and dim where NO_COLOR is set.
    colours: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    return Console(file=file, highlight=False, markup=False, width=width, color_system=colours)


def moment_table(moment: Moment, title: str) -> Table:
    """Return every vCPU's figures at one moment."""
    from rich import box
    from rich.table import Table

    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )
    for heading in _chosen(COLUMNS, moment):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in moment.vcpus:
        cells = _chosen(_cells(row, moment), moment)
        table.add_row(*cells, style=None if row.enabled else "dim")
    return table


def _chosen(cells: Sequence[str], moment: Moment) -> list[str]:
    """Replace the share of wall time by the injected time where there is a schedule: 80 columns hold one."""
    left_out = OF_WALL if moment.stealing else INJECTED
    return [cell for column, cell in enumerate(cells) if column != left_out]


def vcpu_notes(moment: Moment) -> list[str]:
    """Return a line for each vCPU whose guest does not know its stolen time, with the reason."""
    notes = [(row.index, _reason(row)) for row in moment.vcpus]
    return [f"vCPU {index}: {reason}" for index, reason in notes if reason is not None]


def _reason(row: VcpuRow) -> str | None:
    if row.fault is not None:
        return row.fault
    if row.enabled:
        return None
    if row.loads == 0:
        return "the guest has not switched it on"
    if row.structure_ns is None:
        return "it has no structure, so the guest cannot know its stolen time"
    return "the guest has not asked for its stolen time"


def _cells(row: VcpuRow, moment: Moment) -> list[str]:
    """Return one vCPU's cells in the order of :data:`COLUMNS`."""
    # Truth is the host's, and needs no guest that asks; what a guest was not told is no error of its figure.
    guest = row.guest_steal_ns if row.enabled else None
    guest_error = row.guest_error_ns if row.enabled else None
    return [
        str(row.index),
        units.time(row.ran_ns),
        units.time(row.truth_ns),
        units.time(row.injected_ns),
        _or_dash(units.time, row.structure_ns),
        _or_dash(units.time, guest),
        _or_dash(units.difference, row.error_ns),
        _or_dash(units.difference, guest_error),
        units.percent(moment.stolen_here_ns(row), moment.elapsed_seconds),
        str(row.loads),
    ]


def _or_dash(form: Callable[[int], str], figure: int | None) -> str:
    """Return a figure as text; a dash if it is absent."""
    return "-" if figure is None else form(figure)


def print_report(report: RunReport, last: Moment, file: TextIO) -> None:
    """Print the last table of a run, and a summary of the run under it."""
    console = open_console(file)
    console.print()
    console.print(moment_table(last, "stolen time per vCPU"))
    for note in vcpu_notes(last):
        console.print(note, soft_wrap=True)
    boot = "" if report.boot_seconds is None else f", userland after {report.boot_seconds:.2f} s"
    console.print(
        f"\nkernel {report.kernel or 'unknown'}{boot}\n"
        f"engine {report.engine}, placement {report.placement}, "
        f"{report.outcome.value} after {report.elapsed_seconds:.2f} s"
    )
