# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's figures as tables: for a terminal, and in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TextIO

from pvtime.cost.lab_cost import (
    LabCost,
)
from pvtime.cost.lab_frequencies import (
    share,
)
from pvtime.cost.lab_parts import Part
from pvtime.cost.lab_updates import (
    AS_MERGED,
    STRAIGHT,
)
from pvtime.report.table import figures_table, open_console

__all__ = ["CostTable", "cost_tables", "markdown_table", "print_lab_cost"]


@dataclass(frozen=True)
class CostTable:
    """A table of figures."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def cost_tables(cost: LabCost) -> list[CostTable]:
    """Return the tables of all that was measured."""
    return [_updates(cost), _growth(cost), _rates(cost), _shares(cost), _entries(cost), _ticks(cost)]


def print_lab_cost(cost: LabCost, file: TextIO) -> None:
    """Print the tables, and what they were measured with."""
    console = open_console(file)
    for table in cost_tables(cost):
        console.print(figures_table(table.title, table.headings, [(row, True) for row in table.rows]))
        console.print()
    console.print(f"Linux {cost.kernel}, QEMU {cost.qemu}, {cost.cpu}", soft_wrap=True)
    for name, reason in cost.absent.items():
        console.print(f"Not measured: {name}: {reason}", soft_wrap=True)


def markdown_table(table: CostTable) -> str:
    """Return a table in Markdown, its figures to the right."""
    lines = [table.headings, ["---", *["---:"] * (len(table.headings) - 1)], *table.rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _updates(cost: LabCost) -> CostTable:
    rows = [
        [
            update.name,
            str(update.instructions),
            *(str(update.parts.get(part, 0)) for part in Part),
            _spread(update.calls),
        ]
        for update in cost.updates
    ]
    headings = ["update", "instructions", *(part.value for part in Part), "in each call"]
    return CostTable("instructions of one update", headings, rows)


def _spread(calls: Iterable[int]) -> str:
    """Return the smallest and the largest of some counts, and how many they are."""
    counts = sorted(calls)
    spread = str(counts[0]) if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"
    return f"{spread} ({len(counts)})"


def _growth(cost: LabCost) -> CostTable:
    rows = [[point.axis, str(point.value), _spread(point.calls)] for point in cost.growth]
    return CostTable("instructions of one update as merged, by the VM's size", ["of", "number", "each"], rows)


def _rates(cost: LabCost) -> CostTable:
    rows = [
        [
            rate.workload,
            f"{rate.vcpus}:1",
            _rate(rate.loads),
            _rate(rate.entries),
            _rate(rate.user_exits),
            _rate(rate.uncounted_entries),
        ]
        for rate in cost.rates
    ]
    headings = [
        "guest",
        "vCPUs:CPUs",
        "loads/s",
        "entries/s",
        "exits to user space/s",
        "entries/s, uncounted",
    ]
    return CostTable("loads and entries a second, of all vCPUs on the one CPU", headings, rows)


def _rate(rate: float) -> str:
    return f"{rate:.0f}"


def _shares(cost: LabCost) -> CostTable:
    chosen = [update for name in (STRAIGHT, AS_MERGED) if (update := cost.update(name))]
    rows = [
        [
            rate.workload,
            f"{rate.vcpus}:1",
            *(
                f"{100 * share(update.instructions, each):.4f}"
                for update in chosen
                for each in (rate.loads, rate.entries)
            ),
        ]
        for rate in cost.rates
    ]
    headings = [f"{update.name}, at {moment}" for update in chosen for moment in ("loads", "entries")]
    return CostTable(
        "share of the CPU's instructions, per cent: instructions of an update, times the rate",
        ["guest", "vCPUs:CPUs", *headings],
        rows,
    )


def _entries(cost: LabCost) -> CostTable:
    instructions = {update.name: update.instructions for update in cost.updates}
    rows = [
        [
            rate.workload,
            rate.update,
            _rate(rate.entries),
            _rate(rate.updates),
            f"{100 * share(instructions[rate.update], rate.updates):.4f}",
        ]
        for rate in cost.entries
        if rate.update in instructions
    ]
    headings = ["guest", "update", "entries/s", "updates/s", "share, per cent"]
    return CostTable("made at each entry by pvtime's kernel module", headings, rows)


def _ticks(cost: LabCost) -> CostTable:
    rows = [
        [
            "with stolen time" if tick.stolen_time else "without",
            _spread(tick.accounted),
            _spread(tick.stolen) if tick.stolen else "-",
        ]
        for tick in cost.ticks
    ]
    headings = ["guest", "instructions", "of a tick that was stolen as a whole"]
    return CostTable("instructions of a Linux guest's account_process_tick", headings, rows)
