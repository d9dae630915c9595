# SPDX-License-Identifier: GPL-2.0-or-later
"""The cost of an update on this host, as a table and in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TextIO

from pvtime.cost.host import HostCost, LoadCost
from pvtime.cost.statistics import CONFIDENCE, MedianInterval, Quartiles
from pvtime.report.table import figures_table, open_console

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["cost_table", "print_host_cost", "verdict"]

COLUMNS: Final = (
    "load",
    "without:\nlower",
    "median",
    "upper",
    "with:\nlower",
    "median",
    "upper",
    "update:\nmedian",
    f"{CONFIDENCE:.0%}\nfrom",
    "to",
)
ABSENT: Final = "-"


def print_host_cost(cost: HostCost, file: TextIO) -> None:
    """Print the table, what it was made with, and a verdict for each kind of load."""
    console = open_console(file)
    console.print(cost_table(cost))
    trips = ", ".join(f"{load.name} {load.rounds} rounds and {2 * load.loads} loads" for load in cost.loads)
    console.print(f"\n{cost.machine}, Linux {cost.kernel}, CPU {cost.cpu}, exit by {cost.exit_name}: {trips}")
    if cost.call is not None:
        console.print(
            f"A request that does nothing takes {cost.call.median:.0f} ns: Python's call, the system call "
            "and the clock, which are in every round trip.",
            soft_wrap=True,
        )
    for load in cost.loads:
        console.print(verdict(load), soft_wrap=True)


def cost_table(cost: HostCost) -> Table:
    """Return a row for each kind of load."""
    rows = [
        ([load.name, *_quartiles(load.without), *_quartiles(load.with_), *_interval(load.update)], True)
        for load in cost.loads
    ]
    return figures_table(
        "round trips of KVM_RUN without and with stolen time, quartiles in ns", COLUMNS, rows
    )


def verdict(load: LoadCost) -> str:
    """Return a sentence that says whether an update's time can be told from noise."""
    update = load.update
    if update is None:
        return (
            f"{load.name}: too few rounds for an interval ({load.rounds}): "
            "give more of them and more time (--rounds, --duration)."
        )
    figures = (
        f"{_ns(update.median)} ns ({_ns(update.low)} to {_ns(update.high)} with {CONFIDENCE:.0%} confidence)"
    )
    if load.distinguishable:
        return f"{load.name}: an update takes {figures}, which can be told from this host's noise."
    return f"{load.name}: the difference is {figures}, which cannot be told from this host's noise."


def _quartiles(figures: Quartiles | None) -> list[str]:
    if figures is None:
        return [ABSENT] * 3
    return [_ns(figures.lower), _ns(figures.median), _ns(figures.upper)]


def _interval(interval: MedianInterval | None) -> list[str]:
    if interval is None:
        return [ABSENT] * 3
    return [_ns(interval.median), _ns(interval.low), _ns(interval.high)]


def _ns(figure: float) -> str:
    return f"{figure:.0f}"
