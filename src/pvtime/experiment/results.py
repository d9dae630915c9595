# SPDX-License-Identifier: GPL-2.0-or-later
"""Figures of an experiment: from its reports to medians with intervals, a table, CSV and a plot."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import median
from typing import Final

from pvtime.cost.statistics import MedianInterval, median_interval
from pvtime.errors import UsageError, oserror_context
from pvtime.experiment.plan import Job, Plan, Point, report_of
from pvtime.report.document import from_json
from pvtime.report.model import Interval, RunReport

__all__ = ["METRICS", "PointFigures", "RunFigures", "load_runs", "plot", "summarise", "table", "to_csv"]

CONFIDENCE: Final = 0.95

PPM: Final = 10**6


@dataclass(frozen=True)
class RunFigures:
    """Figures of one run, over all its vCPUs, since userland where that is known. Shares in millionths."""

    job: Job
    figures: dict[str, int | None]


METRICS: Final = {
    "stolen": "stolen, host",
    "injected": "of which injected",
    "guest_steal": "stolen, guest",
    "ran": "ran, host",
    "worst_structure_error_ns": "structure - truth",
    "worst_guest_error_ns": "guest - truth, worst",
}
"""Figures of a run, with their headings."""


def load_runs(plan: Plan, directory: Path) -> list[RunFigures]:
    """Return the figures of the runs that have a report.

    :raises UsageError: a report cannot be read.
    """
    runs = []
    for job in plan.jobs:
        path = report_of(directory, job)
        if path.exists():
            with oserror_context(str(path), UsageError):
                text = path.read_text()
            try:
                runs.append(RunFigures(job, _figures(from_json(text))))
            except UsageError as error:
                raise UsageError(f"{path}: {error}: remove it to have it run again") from error
    return runs


def _figures(report: RunReport) -> dict[str, int | None]:
    begins = {row.index: row for row in report.begin.vcpus} if report.begin is not None else {}
    pairs = [(begins.get(row.index), row) for row in report.vcpus]
    intervals = [
        Interval.since_start(row) if begin is None else Interval.between(begin, row) for begin, row in pairs
    ]
    elapsed = sum(interval.host.elapsed_ns for interval in intervals)

    def share(parts: Iterable[int]) -> int | None:
        return PPM * sum(parts) // elapsed if elapsed else None

    guests = [interval.guest for interval in intervals if interval.guest is not None]
    errors = [row.error_ns for row in report.vcpus if row.error_ns is not None]
    guest_errors = [row.worst_guest_error_ns for row in report.vcpus if row.worst_guest_error_ns is not None]
    return {
        "stolen": share(interval.host.stolen_ns for interval in intervals),
        "injected": share(row.injected_ns - (begin.injected_ns if begin else 0) for begin, row in pairs),
        "guest_steal": share(guest.steal_ns for guest in guests) if len(guests) == len(intervals) else None,
        "ran": share(interval.host.ran_ns for interval in intervals),
        "worst_structure_error_ns": max(errors, key=abs, default=None),
        "worst_guest_error_ns": max(guest_errors, key=abs, default=None),
    }


@dataclass(frozen=True)
class PointFigures:
    """Figures of a point: of each metric the median of its runs, and the interval where there are enough."""

    point: Point
    runs: int
    medians: dict[str, float | None]
    intervals: dict[str, MedianInterval | None]


def summarise(plan: Plan, runs: Sequence[RunFigures]) -> list[PointFigures]:
    """Return the figures of each point that has runs."""
    found = []
    for point in plan.points:
        own = [run.figures for run in runs if run.job.point == point]
        samples = {
            metric: [value for figures in own if (value := figures[metric]) is not None] for metric in METRICS
        }
        if own:
            medians = {metric: median(values) if values else None for metric, values in samples.items()}
            intervals = {metric: median_interval(values, CONFIDENCE) for metric, values in samples.items()}
            found.append(PointFigures(point, len(own), medians, intervals))
    return found


def to_csv(runs: Sequence[RunFigures]) -> str:
    """Return a line for each run; shares are fractions."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["placement", "steal", "run", *METRICS])
    for run in runs:
        figures = [
            "" if value is None else value if metric.endswith("_ns") else f"{value / PPM:.6f}"
            for metric, value in run.figures.items()
        ]
        writer.writerow([run.job.point.placement, run.job.point.steal, run.job.number, *figures])
    return out.getvalue()


def table(points: Sequence[PointFigures]) -> list[list[str]]:
    """Return a heading and a row for each point: medians, and behind them their intervals."""
    rows = [["placement", "steal", "runs", *METRICS.values()]]
    for found in points:
        cells = [_cell(metric, found.medians[metric], found.intervals[metric]) for metric in METRICS]
        rows.append([found.point.placement, found.point.steal, str(found.runs), *cells])
    return rows


def _cell(metric: str, middle: float | None, interval: MedianInterval | None) -> str:
    if middle is None:
        return "-"
    nanoseconds = metric.endswith("_ns")
    scale, unit, digits = (1e6, " ms", 1) if nanoseconds else (PPM / 100, " %", 2)
    if nanoseconds and middle == 0:
        return "0 ns"
    text = f"{middle / scale:.{digits}f}{unit}"
    if interval is not None:
        text += f" [{interval.low / scale:.{digits}f}, {interval.high / scale:.{digits}f}]"
    return text


LEFT, TOP, WIDTH, HEIGHT = 70, 40, 620, 360
COLOURS: Final = ("#4477aa", "#ee6677", "#228833", "#ccbb44")
"""Paul Tol's bright scheme, which colour-blind people can tell apart."""


def plot(points: Sequence[PointFigures], title: str) -> str:
    """Return an image (SVG): what the host stole, and what the guest says, over what was to be stolen."""
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH + 200}" height="{HEIGHT + 60}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH + 200}" height="{HEIGHT + 60}" fill="white"/>',
        _text(LEFT, 20, title),
        _text(LEFT + WIDTH / 2 - 110, HEIGHT + 50, "injected steal, per cent of the vCPUs' time"),
    ]
    highest = _highest(points)
    for share in range(0, round(100 * highest / PPM) + 1, 20):
        y = _y(share * PPM / 100, highest)
        out += [
            f'<path d="M{LEFT} {y:.1f}H{WIDTH}" stroke="#dddddd"/>',
            _text(LEFT - 45, y + 4, f"{share} %"),
        ]
    out += [_text(_x(share * PPM / 100) - 8, HEIGHT + 28, f"{share}") for share in range(0, 101, 20)]
    series = [
        (placement, metric)
        for placement in dict.fromkeys(found.point.placement for found in points)
        for metric in ("stolen", "guest_steal")
    ]
    for at, (placement, metric) in enumerate(series):
        colour = COLOURS[at // 2 % len(COLOURS)]
        dash = "" if metric == "stolen" else ' stroke-dasharray="6 4"'
        own = [
            (found.medians["injected"], found.medians[metric], found.intervals[metric])
            for found in points
            if found.point.placement == placement
        ]
        known = sorted(
            ((x, y, interval) for x, y, interval in own if x is not None and y is not None),
            key=lambda one: one[0],
        )
        path = " ".join(f"{_x(x):.1f},{_y(y, highest):.1f}" for x, y, _ in known)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        for x, y, interval in known:
            out.append(f'<circle cx="{_x(x):.1f}" cy="{_y(y, highest):.1f}" r="3" fill="{colour}"/>')
            if interval is not None:
                low, high = _y(interval.low, highest), _y(interval.high, highest)
                out.append(f'<path d="M{_x(x):.1f} {low:.1f}V{high:.1f}" stroke="{colour}"/>')
        y = TOP + 20 * at
        out += [
            f'<path d="M{WIDTH + 15} {y}h25" stroke="{colour}" stroke-width="2"{dash}/>',
            _text(WIDTH + 46, y + 4, f"{placement}: {METRICS[metric]}"),
        ]
    return "\n".join([*out, "</svg>\n"])


def _x(share: float) -> float:
    return LEFT + (WIDTH - LEFT) * share / PPM


def _y(share: float, highest: float) -> float:
    return HEIGHT - (HEIGHT - TOP) * share / highest


def _highest(points: Sequence[PointFigures]) -> int:
    """Return the end of the vertical axis: 100 %, or more where a guest's late reports say more."""
    ends = [
        value
        for found in points
        for metric in ("stolen", "guest_steal")
        for value in (found.medians[metric], getattr(found.intervals[metric], "high", None))
        if value is not None
    ]
    return max(PPM, -(-round(max(ends, default=0)) // (PPM // 5)) * (PPM // 5))


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
