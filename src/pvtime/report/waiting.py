# SPDX-License-Identifier: GPL-2.0-or-later
"""A line on a terminal that says for what a command waits, and for how long it has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from pvtime.report.views import is_terminal

__all__ = ["waiting"]


@contextmanager
def waiting(output: TextIO, text: str) -> Iterator[None]:
    """Show ``text`` and the time during a ``with`` block; nothing where ``output`` is no terminal."""
    if not is_terminal(output):
        yield
        return
    from rich.progress import Progress, TextColumn, TimeElapsedColumn  # late: see pvtime.report.table

    from pvtime.report.table import open_console

    columns = (TextColumn("pvtime: {task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=open_console(output), transient=True, refresh_per_second=2) as progress:
        progress.add_task(text, total=None)
        yield
