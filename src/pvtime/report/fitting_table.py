# SPDX-License-Identifier: GPL-2.0-or-later
"""A table that leaves out columns for which a terminal has no room. It imports rich: import it to draw."""

from __future__ import annotations

from typing import Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

__all__ = ["FittingTable"]

UNLIMITED: Final = 10_000
"""Columns of a terminal on which nothing is cut."""


class FittingTable(Table):
    """Leaves out its last columns until the others fit whole.

    Lines that wrap break a live table: it is drawn over as many lines as it has, so that its heading scrolled
    up the terminal for ever.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw what fits."""
        unlimited = options.update(max_width=UNLIMITED)
        while len(self.columns) > 1 and self.__rich_measure__(console, unlimited).maximum > options.max_width:
            self.columns.pop()
        return super().__rich_console__(console, options)
