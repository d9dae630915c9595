# SPDX-License-Identifier: GPL-2.0-or-later
"""Progress of a fetch of guest images, as a bar or as lines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from pvtime.images.cache import FetchProgress, silent
from pvtime.report.views import is_terminal

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["ProgressBar", "ProgressLines", "image_progress"]


@contextmanager
def image_progress(output: TextIO | None) -> Iterator[FetchProgress]:
    """Yield a callback for a fetch: it draws a bar on a terminal, and prints a line for each step elsewhere.

    :param output: None: nowhere.
    """
    if output is None:
        yield silent
    elif is_terminal(output):
        with ProgressBar(output) as bar:
            yield bar
    else:
        yield ProgressLines(output)


class ProgressLines:
    """Prints each step's description once."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._last = ""

    def __call__(self, description: str, completed_bytes: int, total_bytes: int | None) -> None:
        """Print ``description`` if it is new."""
        if description != self._last:
            self._last = description
            print(f"pvtime: {description}", file=self._output, flush=True)


class ProgressBar:
    """Draws a bar. rich is imported at the first call: most runs find their images in the cache."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._bars: Progress | None = None
        self._task: TaskID | None = None
        self._last = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, description: str, completed_bytes: int, total_bytes: int | None) -> None:
        """Move the bar, or begin one for a new step."""
        bars = self._bars = self._bars or self._open()
        if self._task is None or description != self._last:
            self._last = description
            self._task = bars.add_task(description, total=total_bytes)
        bars.update(self._task, completed=completed_bytes, total=total_bytes)

    def _open(self) -> Progress:
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        from pvtime.report.table import open_console

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(True), TransferSpeedColumn())
        bars = Progress(*columns, console=open_console(self._output))
        bars.start()
        return bars
