# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime report``."""

from __future__ import annotations

from pathlib import Path

import click

from pvtime.cli.params import FILE_NAME
from pvtime.errors import UsageError, oserror_context

__all__ = ["report_command"]


@click.command("report", short_help="Draw a recording as a page")
@click.argument("file", type=FILE_NAME)
@click.option("--html", type=FILE_NAME, metavar="OUT", required=True, help="Write the page to OUT.")
def report_command(file: Path, html: Path) -> int:
    """Draw FILE as one page of HTML: a strip for every vCPU, with its stolen time by cause.

    FILE is what one of these has written: pvtime run --report, pvtime stat --follow, pvtime top --json,
    pvtime who --json, pvtime who --trace. The page has no scripts, and loads nothing.

    \b
    Examples:
        pvtime report out.json --html out.html
        pvtime who web1 --trace web1.json; pvtime report web1.json --html web1.html
    """  # noqa: D301 (click wants the character)
    from pvtime.report.output_file import refuse_unwritable, write_whole
    from pvtime.watch.page import to_html
    from pvtime.watch.recordings import MAX_BYTES, read_recording

    refuse_unwritable(html, "the page")
    with oserror_context(str(file), UsageError), file.open("rb") as opened:
        data = opened.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise UsageError(f"{file} has more than {MAX_BYTES >> 20} MiB: record for a shorter time")
    write_whole(html, to_html(read_recording(data.decode("utf-8", "replace"))), "the page")
    return 0
