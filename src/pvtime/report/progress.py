# SPDX-License-Identifier: GPL-2.0-or-later
"""Shows how far a fetch of the stock images is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from pvtime.images.cache import cache_directory
from pvtime.images.progress import Progress, silent
from pvtime.images.store import StockImages, stock_images
from pvtime.report.live import is_terminal

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

__all__ = ["Bar", "Lines", "shown", "stock"]


def stock(output: TextIO | None) -> StockImages:
    """Return the stock images; if they must be fetched, show on ``output`` how far that is (None: nowhere).

    :raises ImagesError: they cannot be had.
    """
    with shown(output) as progress:
        return stock_images(cache_directory(), progress)


@contextmanager
def shown(output: TextIO | None) -> Iterator[Progress]:
    """Yield what a fetch is to call: a bar on a terminal, else a line for each thing that is done."""
    if output is None:
        yield silent
    elif is_terminal(output):
        with Bar(output) as bar:
            yield bar
    else:
        yield Lines(output)


class Lines:
    """Prints each description once."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._last = ""

    def __call__(self, description: str, completed_bytes: int, total_bytes: int | None) -> None:
        """See :class:`~pvtime.images.progress.Progress`."""
        if description != self._last:
            self._last = description
            print(f"pvtime: {description}", file=self._output, flush=True)


class Bar:
    """Draws a bar. rich comes with the first call: most runs find their images in the cache."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._bars: Bars | None = None
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
        """See :class:`~pvtime.images.progress.Progress`."""
        bars = self._bars = self._bars or self._open()
        if self._task is None or description != self._last:
            self._last = description
            self._task = bars.add_task(description, total=total_bytes)
        bars.update(self._task, completed=completed_bytes, total=total_bytes)

    def _open(self) -> Bars:
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
        from rich.progress import Progress as Bars

        from pvtime.report.table import open_console

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(True), TransferSpeedColumn())
        bars = Bars(*columns, console=open_console(self._output))
        bars.start()
        return bars
