# SPDX-License-Identifier: GPL-2.0-or-later
"""A table for files and pipes, drawn as :mod:`pvtime.report.table` has it drawn, but without rich.

An import of rich takes 26 to 41 ms of a CPU, and in the lab, where this process waits for it after its guest
has ended, more than two fifths of all imports of a run.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import zip_longest
from typing import Final, TextIO

__all__ = ["FORCED", "is_plain", "plain_table"]

GAP: Final = "  "
"""Between two columns."""
FORCED: Final = ("FORCE_COLOR", "TTY_COMPATIBLE")
"""Variables by which rich takes a file for a terminal."""


def is_plain(file: TextIO) -> bool:
    """Whether rich would draw no colours on ``file``, and the lines of a table as they are here."""
    encoding = getattr(file, "encoding", None) or "utf-8"
    forced = any(os.environ.get(name) for name in FORCED)
    return not forced and not file.isatty() and encoding.lower().startswith("utf")


def plain_table(title: str, headings: Iterable[str], rows: Iterable[tuple[Iterable[str], bool]]) -> str:
    """Return the lines of a table of figures, its columns justified right, its headings at the bottom.

    :param rows: the cells of each, and whether it stands out, which cannot be seen here.
    """
    import textwrap

    heads = [heading.split("\n") for heading in headings]
    cells = [list(row) for row, _ in rows]
    widths = [
        max(map(len, (*head, *column))) for head, column in zip(heads, zip(*cells, strict=True), strict=True)
    ]
    # From the bottom, as one may have more lines than another.
    above = reversed(list(zip_longest(*map(reversed, heads), fillvalue="")))
    width = sum(widths) + len(GAP) * (len(widths) - 1)
    titles = [part.ljust(width) for line in title.split("\n") for part in textwrap.wrap(line, width)]
    lines = [GAP.join(map(str.rjust, row, widths)) for row in (*above, *cells)]
    lines.insert(len(lines) - len(cells), "─" * width)
    return "".join(f"{line}\n" for line in (*titles, *lines))
