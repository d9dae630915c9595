# SPDX-License-Identifier: GPL-2.0-or-later
"""The findings of the scenarios as a table in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pvtime.scenario.runner import ScenarioRun
from pvtime.steal.placement import PlacementName

__all__ = ["markdown"]

COLUMNS = (PlacementName.HYPERVISOR, PlacementName.USERSPACE, PlacementName.GUEST)
"""In the thread's order: (1), (2), (3)."""

NOTHING = "-"


def markdown(runs: Sequence[ScenarioRun]) -> str:
    """Return the table; a cell that no run has shown is a dash, one that contradicts says so."""
    cells: dict[tuple[str, str], dict[PlacementName, str]] = {}
    for run in runs:
        for finding in run.findings:
            words = finding.observed
            if not finding.holds:
                words = f"**{words}** (expected: {finding.expected})"
            row = cells.setdefault((run.scenario.name, finding.topic), {})
            row[run.placement] = words
    header = ["scenario", "", *(f"({number}) {name.value}" for number, name in enumerate(COLUMNS, 1))]
    lines = [_line(header), _line(["---"] * len(header))]
    lines += [_line(row) for row in _rows(cells)]
    return "\n".join(lines) + "\n"


def _rows(cells: dict[tuple[str, str], dict[PlacementName, str]]) -> Iterator[list[str]]:
    last = ""
    for (scenario, topic), row in cells.items():
        name = "" if scenario == last else f"`{scenario}`"
        yield [name, topic, *(row.get(placement, NOTHING) for placement in COLUMNS)]
        last = scenario


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
