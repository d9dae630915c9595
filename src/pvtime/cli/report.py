# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime report``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import click

from pvtime.cli.params import FILE_NAME
from pvtime.errors import UsageError, oserror_context
from pvtime.report.document import from_json
from pvtime.report.model import Moment, RunReport

__all__ = ["report_command"]


@click.command("report", short_help="Print reports again, compare or draw them")
@click.argument("file", type=FILE_NAME)
@click.argument("other", type=FILE_NAME, required=False)
@click.option("--html", type=FILE_NAME, metavar="OUT", help="Write a page of HTML to OUT.")
@click.option("--svg", type=FILE_NAME, metavar="OUT", help="Write the page's strips to OUT, as one picture.")
def report_command(file: Path, other: Path | None, html: Path | None, svg: Path | None) -> int:
    """Print the report FILE of pvtime run --report again, or compare it with OTHER.

    With OTHER, it prints each figure's difference, and whether that is beyond the error with which one run is
    measured (docs/report.md); pvtime repeat says how much runs differ from each other.

    With --html it draws FILE as one page: a strip for every vCPU, with its stolen time by cause. FILE is then
    what one of these has written: pvtime run --report or --report-stream, pvtime stat --follow, pvtime top
    --json, pvtime who --json, pvtime who --trace. The page has no scripts, and loads nothing.

    \b
    Examples:
        pvtime report out.json
        pvtime report before.json after.json
        pvtime report out.json --html out.html
        pvtime who web1 --trace web1.json; pvtime report web1.json --html web1.html
    """  # noqa: D301 (click wants the character)
    if html is None and svg is None:
        return _print(file, other)
    if other is not None:
        option = "--svg" if html is None else "--html"
        raise UsageError(f"{option} draws one recording: leave out OTHER, or {option} to compare")
    from pvtime.report.output_file import refuse_unwritable, write_whole
    from pvtime.watch.page import to_html, to_svg
    from pvtime.watch.recordings import MAX_BYTES, read_recording

    for out, what in ((html, "the page"), (svg, "the picture")):
        if out is not None:
            refuse_unwritable(out, what)
    with oserror_context(str(file), UsageError), file.open("rb") as opened:
        data = opened.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise UsageError(f"{file} has more than {MAX_BYTES >> 20} MiB: record for a shorter time")
    try:
        recording = read_recording(data.decode("utf-8", "replace"))
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error
    for out, draw, what in ((html, to_html, "the page"), (svg, to_svg, "the picture")):
        if out is not None:
            write_whole(out, draw(recording), what)
    return 0


def _print(file: Path, other: Path | None) -> int:
    from pvtime.report.comparison import print_comparison
    from pvtime.report.table import print_report

    report = _read(file)
    if other is not None:
        print_comparison(report, _read(other), (str(file), str(other)), sys.stdout)
        return 0
    stealing = any(row.injected_ns for row in report.vcpus)
    print_report(report, Moment(report.sampled_seconds, report.vcpus, stealing, report.begin), sys.stdout)
    return 0


def _read(file: Path) -> RunReport:
    """Return the report in a file.

    :raises UsageError: it cannot be read, or is none.
    """
    with oserror_context(str(file), UsageError), file.open("rb") as opened:
        data = opened.read(MAX_REPORT + 1)
    if len(data) > MAX_REPORT:
        raise UsageError(f"{file} is larger than any report")
    try:
        return from_json(data.decode("utf-8", "replace"))
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error


MAX_REPORT: Final = 4 << 20
"""Bytes of a report."""
