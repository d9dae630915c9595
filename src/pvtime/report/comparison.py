# SPDX-License-Identifier: GPL-2.0-or-later
"""Two reports beside each other: each figure's difference, and whether the figures' own errors explain it.

The error of a share is that of its beginning and end: a tick of the guest for what it ran and what was
stolen, and the least stop that is told from a delay (docs/report.md) for the rest of the host's columns. It
says how well one run was measured, and nothing of how much runs differ from each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TextIO

from pvtime.report.model import Interval, RunReport, VcpuRow

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Compared", "compare", "print_comparison"]

TICK_NS: Final = 10_000_000
STOP_NS: Final = {"unicorn": 20_000_000, "kvm": 100_000_000}


@dataclass(frozen=True)
class Compared:
    """A figure of two reports."""

    name: str
    first: float | None
    second: float | None
    error: float | None
    """By how much they may differ without a reason; None: not known."""
    unit: str

    @property
    def difference(self) -> float | None:
        """The second less the first."""
        return None if self.first is None or self.second is None else self.second - self.first

    @property
    def beyond(self) -> bool | None:
        """Whether the difference is beyond the errors; None: not known."""
        if self.difference is None or self.error is None:
            return None
        return abs(self.difference) > self.error


def compare(first: RunReport, second: RunReport) -> Iterator[Compared]:
    """Yield the figures of both reports; shares are of the time since userland, where both have that."""
    yield Compared("boot", first.boot_seconds, second.boot_seconds, None, "s")
    yield Compared("elapsed", first.elapsed_seconds, second.elapsed_seconds, None, "s")
    others = {row.index: row for row in second.vcpus}
    since_begin = all(report.begin is not None for report in (first, second))
    for row in first.vcpus:
        if row.index in others:
            yield from _of_vcpu(row, others[row.index], (first, second), since_begin=since_begin)


def _of_vcpu(
    row: VcpuRow, other: VcpuRow, reports: tuple[RunReport, RunReport], *, since_begin: bool
) -> Iterator[Compared]:
    name = f"vCPU {row.index} "
    intervals = [
        _interval(report, one, since_begin) for report, one in zip(reports, (row, other), strict=True)
    ]
    stop_ns = [STOP_NS.get(report.engine, max(STOP_NS.values())) for report in reports]

    def share(what: str, parts: list[int | None], errors_ns: list[int]) -> Compared:
        elapsed = [interval.host.elapsed_ns for interval in intervals]
        shares = [
            100 * part / whole if part is not None and whole else None
            for part, whole in zip(parts, elapsed, strict=True)
        ]
        error = sum(100 * ns / whole for ns, whole in zip(errors_ns, elapsed, strict=True) if whole)
        return Compared(name + what, shares[0], shares[1], error, "%")

    for column, errors_ns in (
        ("ran", [TICK_NS] * 2),
        ("stolen", [TICK_NS] * 2),
        ("idle", stop_ns),
        ("stopped", stop_ns),
        ("host", stop_ns),
    ):
        yield share(column, [getattr(interval.host, f"{column}_ns") for interval in intervals], errors_ns)
    for column in ("busy", "steal", "unused"):
        parts = [
            None if interval.guest is None else getattr(interval.guest, f"{column}_ns")
            for interval in intervals
        ]
        yield share(f"guest {column}", parts, [2 * TICK_NS] * 2)
    yield Compared(name + "structure - truth", _ms(row.error_ns), _ms(other.error_ns), 0.0, "ms")
    yield Compared(
        name + "guest - truth, worst",
        _ms(row.worst_guest_error_ns),
        _ms(other.worst_guest_error_ns),
        2 * TICK_NS / 1e6,
        "ms",
    )


def _interval(report: RunReport, row: VcpuRow, since_begin: bool) -> Interval:
    if since_begin and report.begin is not None:
        return Interval.between(next(one for one in report.begin.vcpus if one.index == row.index), row)
    return Interval.since_start(row)


def _ms(ns: int | None) -> float | None:
    return None if ns is None else ns / 1e6


def print_comparison(first: RunReport, second: RunReport, names: tuple[str, str], file: TextIO) -> None:
    """Print the reports' figures, their differences, and which of these the errors do not explain."""
    from pvtime.report.table import figures_table, open_console

    rows = [(_cells(compared), compared.beyond is not False) for compared in compare(first, second)]
    table: Table = figures_table(f"A {names[0]}\nB {names[1]}", HEADINGS, rows)
    table.columns[0].justify = "left"
    console = open_console(file)
    console.print(table)


HEADINGS: Final = ("", "A", "B", "B - A", "error", "beyond it")


def _cells(compared: Compared) -> list[str]:
    def shown(value: float | None, sign: str = "") -> str:
        return "-" if value is None else f"{value:{sign}.2f} {compared.unit}"

    beyond = {True: "yes", False: "no", None: "-"}[compared.beyond]
    return [
        compared.name,
        shown(compared.first),
        shown(compared.second),
        shown(compared.difference, "+"),
        shown(compared.error),
        beyond,
    ]
