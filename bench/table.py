# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of ``make bench``: each measure with its target, its median and its spread."""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["Row", "print_rows"]

COLLECTED = "PVTIME_BENCH_ROWS"
"""Environment variable: a file that every row is appended to, for the table of all."""


@dataclass(frozen=True)
class Row:
    """A measure: ratios or figures of several rounds."""

    target: int | None
    """Number of the target in docs/speed.md."""
    name: str
    values: Sequence[float]
    goal: float | None
    """To be reached or stayed below; None: nothing is set."""
    note: str = ""
    """Figures behind it, with their units."""

    def __str__(self) -> str:
        median = statistics.median(self.values)
        goal = "" if self.goal is None else f"{self.goal:g}"
        verdict = "" if self.goal is None else "reached" if median <= self.goal else "missed"
        spread = f"{min(self.values):.3g} to {max(self.values):.3g}"
        figures = f"{goal:>6} {median:8.3g}  {spread:16} {verdict:8}"
        return f"{self.target or '':>2}  {self.name:72} {figures} {self.note}".rstrip()


HEADER = f"{'#':>2}  {'measure':72} {'goal':>6} {'median':>8}  {'least to most':16}"


def print_rows(rows: Iterable[Row]) -> None:
    """Print rows, and keep them for the table of all."""
    for row in rows:
        print(row, flush=True)
        if name := os.environ.get(COLLECTED):
            with Path(name).open("a") as file:
                file.write(json.dumps(asdict(row)) + "\n")


def main() -> None:
    """Print the table of the rows that were collected in the file of the first argument."""
    rows = [Row(**json.loads(line)) for line in Path(sys.argv[1]).read_text().splitlines()]
    print(HEADER)
    for row in sorted(rows, key=lambda row: row.target or 99):
        print(row)


if __name__ == "__main__":
    main()
