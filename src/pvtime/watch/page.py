# SPDX-License-Identifier: GPL-2.0-or-later
"""A recording as one page of HTML that needs nothing else: no script, no font, no network.

Each vCPU has a strip, from left to right the time and from bottom to top the shares of it; stolen time is
stacked by cause. A long recording is drawn in so many columns.
"""

from __future__ import annotations

from collections import defaultdict
from html import escape
from typing import Final

from pvtime import __version__
from pvtime.host.text import printable
from pvtime.report import units
from pvtime.watch.recordings import Recording, Track

__all__ = ["COLUMNS", "to_html", "to_svg"]

COLUMNS: Final = 600
WIDTH: Final = 900
HEIGHT: Final = 48
MOST_MARKS: Final = 500
NAMED: Final = 12
"""Causes that have a colour of their own; the rest is "stolen: others"."""
REST: Final = "stolen: all others"

FIXED: Final = {
    "ran": "#4c9f70",
    "idle": "#d9d9d9",
    "blocked": "#d9d9d9",
    "off the CPU": "#d9d9d9",
    "stopped": "#404040",
    "held up by the host": "#8c8c8c",
}
CAUSE_COLOURS: Final = (
    *("#d62728", "#ff7f0e", "#9467bd", "#e377c2", "#8c564b", "#bcbd22"),
    *("#f2b134", "#c5424f", "#6a51a3", "#fd8d3c", "#a63603", "#dd1c77"),
)
OTHER_COLOUR: Final = "#f7b6b6"

STYLE: Final = """
body { font: 14px/1.4 sans-serif; margin: 2em auto; max-width: 70em; color: #222; background: #fff }
table { border-collapse: collapse } td, th { padding: 2px 12px 2px 0; text-align: right }
td:first-child, th:first-child { text-align: left }
.marks td { text-align: left }
svg { display: block; background: #f6f6f6; width: 100%; height: auto }
.key { display: inline-block; width: 1em; height: 1em; vertical-align: -2px; margin: 0 4px 0 12px }
h2 { font-size: 1em; margin: 1.2em 0 .2em } .marks { max-height: 20em; overflow: auto }
"""


def to_html(recording: Recording) -> str:
    """Return the page."""
    colours = _colours(recording)
    title = escape(printable(recording.title, 200))
    parts = [
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        f"<style>{STYLE}</style></head><body><h1>{title}</h1>",
        *(f"<p>{escape(printable(sentence, 300))}</p>" for sentence in recording.sentences),
        _legend(colours),
        *(_track(track, recording, colours) for track in recording.tracks),
        _totals(recording, colours),
        _figures(recording),
        _marks(recording),
        f"<p><small>pvtime {escape(__version__)}</small></p></body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _colours(recording: Recording) -> dict[str, str]:
    """Return the colour of all that a vCPU's time was spent on, the most first."""
    totals: defaultdict[str, float] = defaultdict(float)
    for track in recording.tracks:
        for what, seconds in track.totals().items():
            totals[what] += seconds
    fixed = {what: colour for what, colour in FIXED.items() if what in totals}
    causes = sorted((what for what in totals if what not in FIXED), key=lambda what: -totals[what])
    named = dict(zip(causes[:NAMED], CAUSE_COLOURS, strict=False))
    rest = {REST: OTHER_COLOUR} if len(causes) > NAMED else {}
    return fixed | named | rest


def _legend(colours: dict[str, str]) -> str:
    keys = (
        f'<span class="key" style="background:{colour}"></span>{escape(printable(what))}'
        for what, colour in colours.items()
    )
    return f"<p>{''.join(keys)}</p>"


def to_svg(recording: Recording) -> str:
    """Return the strips alone, with a legend and the marks, as a picture."""
    colours = _colours(recording)
    row, top = HEIGHT + 24, 24 + 18 * len(colours)
    height = top + row * len(recording.tracks) + 24
    keys = (
        f'<rect x="0" y="{at * 18 + 24}" width="12" height="12" fill="{colour}"/>'
        f'<text x="18" y="{at * 18 + 34}">{escape(printable(what))}</text>'
        for at, (what, colour) in enumerate(colours.items())
    )
    strips = (
        f'<text x="0" y="{top + at * row + 16}">{escape(printable(track.name, 120))}</text>'
        f'<g transform="translate(0 {top + at * row + 22})">{_strip(track, recording, colours)}</g>'
        for at, track in enumerate(recording.tracks)
    )
    end = f"{recording.end:.1f} s"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="12"><rect width="{WIDTH}" height="{height}" fill="#fff"/>'
        f'<text x="0" y="14" font-weight="bold">{escape(printable(recording.title, 120))}</text>'
        f"{''.join(keys)}{''.join(strips)}"
        f'<text x="0" y="{height - 6}">0 s</text>'
        f'<text x="{WIDTH}" y="{height - 6}" text-anchor="end">{end}</text></svg>\n'
    )


def _track(track: Track, recording: Recording, colours: dict[str, str]) -> str:
    """Return a vCPU's strip under its name."""
    return (
        f"<h2>{escape(printable(track.name, 120))}</h2>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img">'
        f"{_strip(track, recording, colours)}</svg>"
    )


def _strip(track: Track, recording: Recording, colours: dict[str, str]) -> str:
    """Return a vCPU's columns and the marks."""
    end = recording.end or 1.0
    columns: list[defaultdict[str, float]] = [defaultdict(float) for _ in range(COLUMNS)]
    width = end / COLUMNS
    for one in track.slices:
        low = min(COLUMNS - 1, max(0, int(one.begin / width)))
        high = min(COLUMNS - 1, max(low, int(one.end / width)))
        length = max(one.end - one.begin, 1e-12)
        what = one.what if one.what in colours else REST
        for column in range(low, high + 1):
            overlap = min(one.end, (column + 1) * width) - max(one.begin, column * width)
            columns[column][what] += one.seconds * max(0.0, overlap) / length
    rectangles = []
    column = 0
    while column < COLUMNS:
        shares = _shares(columns[column], colours)
        last = column
        while last + 1 < COLUMNS and _shares(columns[last + 1], colours) == shares:
            last += 1
        rectangles += _column(column, last, shares, colours, width)
        column = last + 1
    lines = [
        f'<line x1="{mark.at / end * WIDTH:.1f}" x2="{mark.at / end * WIDTH:.1f}" y1="0" y2="{HEIGHT}" '
        f'stroke="#000" stroke-dasharray="2"><title>{escape(printable(mark.text, 200))}</title></line>'
        for mark in recording.marks[:MOST_MARKS]
    ]
    return f'<g shape-rendering="crispEdges">{"".join(rectangles)}{"".join(lines)}</g>'


def _shares(column: dict[str, float], colours: dict[str, str]) -> tuple[tuple[str, int], ...]:
    """Return what a column is made of, from the bottom, in thousandths: equal columns are one."""
    whole = sum(column.values())
    if whole <= 0:
        return ()
    shares = ((what, 10 * round(100 * column.get(what, 0.0) / whole)) for what in colours)
    return tuple((what, share) for what, share in shares if share)


def _column(
    first: int, last: int, shares: tuple[tuple[str, int], ...], colours: dict[str, str], width: float
) -> list[str]:
    found, bottom = [], 0
    x, wide = first * WIDTH / COLUMNS, (last - first + 1) * WIDTH / COLUMNS
    for what, share in shares:
        height, y = share * HEIGHT / 1000, HEIGHT - (bottom + share) * HEIGHT / 1000
        text = f"{first * width:.3f} s to {(last + 1) * width:.3f} s: {printable(what)} {share // 10} %"
        found.append(
            f'<rect x="{x:.1f}" y="{y:.2f}" width="{wide:.1f}" height="{height:.2f}" fill="{colours[what]}">'
            f"<title>{escape(text)}</title></rect>"
        )
        bottom += share
    return found


def _totals(recording: Recording, colours: dict[str, str]) -> str:
    """Return the table of all vCPUs' times, in s."""
    heads = "".join(f"<th>{escape(printable(what))}</th>" for what in colours)
    rows = []
    for track in recording.tracks:
        totals: defaultdict[str, float] = defaultdict(float)
        for what, seconds in track.totals().items():
            totals[what if what in colours else REST] += seconds
        cells = "".join(f"<td>{totals[what]:.3f}</td>" for what in colours)
        rows.append(f"<tr><td>{escape(printable(track.name, 120))}</td>{cells}</tr>")
    return f"<h2>seconds</h2><table><tr><th></th>{heads}</tr>{''.join(rows)}</table>"


def _figures(recording: Recording) -> str:
    """Return the table of truth, structure and guest."""
    if not recording.figures:
        return ""
    rows = []
    for one in recording.figures:
        cells = [one.name, units.time(one.truth_ns)]
        for ns in (one.structure_ns, one.guest_ns):
            cells += ["-", "-"] if ns is None else [units.time(ns), units.difference(ns - one.truth_ns)]
        rows.append("".join(f"<td>{escape(cell)}</td>" for cell in cells))
    heads = "".join(f"<th>{head}</th>" for head in ("", "truth", "structure", "- truth", "guest", "- truth"))
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<h2>stolen time</h2><table><tr>{heads}</tr>{body}</table>"


def _marks(recording: Recording) -> str:
    if not recording.marks:
        return ""
    rows = "".join(
        f"<tr><td>{mark.at:.3f} s</td><td>{escape(printable(mark.text, 300))}</td></tr>"
        for mark in recording.marks[:MOST_MARKS]
    )
    more = len(recording.marks) - MOST_MARKS
    rest = f"<p>and {more} more</p>" if more > 0 else ""
    return f'<h2>events</h2><div class="marks"><table>{rows}</table>{rest}</div>'
