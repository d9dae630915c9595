# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables of a run, drawn by rich.

rich is imported where it draws, not before: it costs 26 to 41 ms, more than click, and a run that prints no
table (``--quiet --report -``) need not pay it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple
from typing import TYPE_CHECKING, Literal, TextIO

from pvtime.report import units
from pvtime.report.model import Interval

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pvtime.report.model import Moment, RunReport, VcpuRow

__all__ = [
    "PLAIN_WIDTH",
    "figures_table",
    "moment_table",
    "open_console",
    "print_report",
    "shares_table",
    "vcpu_notes",
]

PLAIN_WIDTH = 200
"""Columns where the output is not a terminal: lines are long there, not broken."""

COLUMNS = (
    "vCPU",
    "stolen:\ntruth",
    "of which\ninjected",
    "stolen:\nstructure",
    "stolen:\nguest",
    "structure\n- truth",
    "guest\n- truth",
    "worst\nso far",
)
INJECTED = COLUMNS.index("of which\ninjected")
SHARES = (
    "vCPU",
    "since",
    "host:\nran",
    "stolen",
    "idle",
    "stopped",
    "host",
    "guest:\nbusy",
    "steal",
    "idle",
    "sum",
)


def open_console(file: TextIO) -> Console:
    """Return a console on ``file``: it has colours and bold text on a terminal, unless NO_COLOR is set."""
    import shutil

    from rich.console import Console

    width = shutil.get_terminal_size().columns if file.isatty() else PLAIN_WIDTH
    # Of itself rich leaves bold and dim where NO_COLOR is set.
    colours: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    return Console(file=file, highlight=False, markup=False, width=width, color_system=colours)


def moment_table(moment: Moment, title: str) -> Table:
    """Return every vCPU's figures at one moment."""
    rows = [(_chosen(_cells(row), moment), row.enabled) for row in moment.vcpus]
    return figures_table(title, _chosen(COLUMNS, moment), rows)


def shares_table(moment: Moment, *, boot: bool) -> Table:
    """Return the shares of every vCPU's time, by the host and by the guest.

    :param boot: beside the time since :attr:`Moment.begin` show that since the start.
    """
    begin = moment.begin
    groups = []
    if boot or begin is None:
        groups.append(("start", "the start", [Interval.since_start(row) for row in moment.vcpus]))
    if begin is not None:
        since = ("ready", "userland's first report") if begin.from_guest else ("here", "it runs here")
        groups.append((*since, [Interval.between(begin.vcpus[row.index], row) for row in moment.vcpus]))
    times = [f"{intervals[0].host.elapsed_ns / 1e9:.2f} s since {event}" for _, event, intervals in groups]
    rows = [
        _shares(since, row, interval)
        for since, _, intervals in groups
        for row, interval in zip(moment.vcpus, intervals, strict=True)
    ]
    return figures_table("time per vCPU: per cent of the " + "\nand of the ".join(times), SHARES, rows)


def figures_table(title: str, headings: Iterable[str], rows: Iterable[tuple[Iterable[str], bool]]) -> Table:
    """Return a table of figures, which leaves out its last columns where the terminal is narrow.

    :param rows: the cells of each, and whether it stands out (or is dim).
    """
    from rich import box

    from pvtime.report.fitting_table import FittingTable

    table = FittingTable(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for cells, bright in rows:
        table.add_row(*cells, style=None if bright else "dim")
    return table


def _chosen(cells: Sequence[str], moment: Moment) -> list[str]:
    """Leave out the injected time where there is no schedule."""
    return [cell for column, cell in enumerate(cells) if moment.stealing or column != INJECTED]


def vcpu_notes(moment: Moment) -> list[str]:
    """Return a line for each vCPU whose guest does not know its stolen time, or has restarted its count."""
    notes = [(row.index, note) for row in moment.vcpus for note in (_reason(row), _restarts(row))]
    return [f"vCPU {index}: {note}" for index, note in notes if note is not None]


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


def _restarts(row: VcpuRow) -> str | None:
    if row.starts < 2:
        return None
    return f"the guest has asked for its stolen time {row.starts} times: its figures count from the last on"


def _cells(row: VcpuRow) -> list[str]:
    """Return one vCPU's cells in the order of :data:`COLUMNS`."""
    return [
        str(row.index),
        units.time(row.truth_ns),
        units.time(row.injected_ns),
        _or_dash(units.time, row.structure_ns),
        _or_dash(units.time, row.guest_steal_ns),
        _or_dash(units.difference, row.error_ns),
        _or_dash(units.difference, row.guest_error_ns),
        _or_dash(units.difference, row.worst_guest_error_ns),
    ]


def _shares(since: str, row: VcpuRow, interval: Interval) -> tuple[list[str], bool]:
    """Return one vCPU's cells in the order of :data:`SHARES`, and whether it is on."""
    guest = interval.guest
    own = (guest.busy_ns, guest.steal_ns, guest.unused_ns, guest.total_ns) if guest else (None,) * 4

    def share(ns: int) -> str:
        return units.percent(ns, interval.host.elapsed_ns)

    shares = [share(ns) for ns in astuple(interval.host)] + [_or_dash(share, ns) for ns in own]
    return [str(row.index), since, *shares], row.loads > 0


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
    console.print()
    console.print(shares_table(last, boot=True))
    boot = "" if report.boot_seconds is None else f", userland after {report.boot_seconds:.2f} s"
    console.print(
        f"\nkernel {report.kernel or 'unknown'}{boot}\n"
        f"engine {report.engine}, placement {report.placement}, "
        f"{report.outcome.value} after {report.elapsed_seconds:.2f} s"
    )
