# SPDX-License-Identifier: GPL-2.0-or-later
"""Views of a run: a live table on a terminal, lines elsewhere, the console alone, or nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Final, Protocol, Self, TextIO

from pvtime.report import units
from pvtime.report.console import LineBuffer
from pvtime.report.model import Moment

if TYPE_CHECKING:
    from rich.console import ConsoleRenderable

__all__ = ["LinesView", "LiveView", "QuietView", "RawView", "View", "is_terminal"]

TITLE: Final = "stolen time per vCPU, {:.1f} s after the start"
TABLE_LINES: Final = 12
"""Lines of both tables without their rows and notes, of a blank one between, and of the guest's last ones."""


def is_terminal(file: TextIO) -> bool:
    """Whether ``file`` is a terminal on which a line can be overwritten."""
    return file.isatty() and os.environ.get("TERM", "dumb") != "dumb"


class View(Protocol):
    """Shows a run. Called from the main thread only."""

    @property
    def interval(self) -> float | None:
        """Seconds between two moments; None: show none."""

    @property
    def console_interval(self) -> float | None:
        """Seconds for which console output may be delayed; None: show it when something else is due."""

    def console(self, data: bytes) -> None:
        """Show console output."""

    def note(self, note: str) -> None:
        """Show a line of pvtime's own."""

    def moment(self, moment: Moment) -> None:
        """Show new figures."""


class QuietView:
    """Shows nothing."""

    interval: ClassVar[float | None] = None
    console_interval: ClassVar[float | None] = None

    def console(self, data: bytes) -> None:
        """Show nothing."""

    def note(self, note: str) -> None:
        """Show nothing."""

    def moment(self, moment: Moment) -> None:
        """Show nothing."""


class RawView:
    """Passes console output on as it is: the terminal is the guest's, with no room for a table."""

    interval: ClassVar[float | None] = None
    console_interval: ClassVar[float | None] = None

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._out = file.buffer
        self._line_ended = True

    def console(self, data: bytes) -> None:
        """Pass the bytes on."""
        self._line_ended = data.endswith(b"\n")
        self._out.write(data)
        self._out.flush()

    def note(self, note: str) -> None:
        """Print a line of its own, on a terminal that is raw."""
        self.console(b"\r\n" * (not self._line_ended) + f"pvtime: {note}\r\n".encode())

    def moment(self, moment: Moment) -> None:
        """Show nothing."""

    def lines(self, lines: Iterable[str]) -> None:
        """Print several lines of pvtime's own."""
        for line in lines:
            self.note(line)

    def figures(self, moment: Moment) -> None:
        """Print the tables that the user has asked for."""
        from pvtime.report.table import moment_table, open_console, shares_table, vcpu_notes

        console = open_console(self._file)
        with console.capture() as captured:
            console.print(moment_table(moment, TITLE.format(moment.elapsed_seconds)))
            for note in vcpu_notes(moment):
                console.print(note, soft_wrap=True)
            console.print(shares_table(moment, boot=True))
        self.console(b"\r\n" + captured.get().replace("\n", "\r\n").encode())


class LinesView(AbstractContextManager["LinesView"]):
    """Prints the guest's console, and a line of figures every :attr:`interval`: for files and pipes."""

    interval: ClassVar[float | None] = 2.0
    console_interval: ClassVar[float | None] = 0.1

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._lines = LineBuffer()
        self._next = 0.0

    def console(self, data: bytes) -> None:
        """Print the lines that ``data`` completes."""
        self._print(self._lines.feed(data))

    def note(self, note: str) -> None:
        """Print a line before the guest's unfinished one."""
        self._print([f"pvtime: {note}"])

    def moment(self, moment: Moment) -> None:
        """Print one line for all vCPUs that are on, at most one every :attr:`interval`."""
        if moment.elapsed_seconds < self._next or not any(row.loads for row in moment.vcpus):
            return
        assert self.interval is not None
        self._next = moment.elapsed_seconds + self.interval
        figures = ", ".join(
            f"vCPU {row.index} ran {units.time(row.ran_ns)} stolen {units.time(row.stolen_ns)}"
            + (f" ({units.time(row.injected_ns)} injected)" if moment.stealing else "")
            + f" idle {units.time(row.idle_ns)}"
            + (f" stopped {units.time(row.stopped_ns)}" if row.stopped_ns else "")
            for row in moment.vcpus
            if row.loads
        )
        self._print([f"pvtime: {moment.elapsed_seconds:.1f} s: {figures}"])

    def _print(self, lines: list[str]) -> None:
        if lines:
            self._file.write("\n".join(lines) + "\n")
            self._file.flush()

    def __exit__(self, *_: object) -> None:
        self._print(self._lines.flush())


class LiveView(AbstractContextManager["LiveView"]):
    """Redraws the table a few times a second, below the guest's console."""

    interval: ClassVar[float | None] = 0.25
    console_interval: ClassVar[float | None] = 0.1

    def __init__(self, file: TextIO) -> None:
        from rich.live import Live  # see pvtime.report.table for why here

        from pvtime.report.table import open_console

        self._lines = LineBuffer()
        self._live = Live(
            console=open_console(file),
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def console(self, data: bytes) -> None:
        """Print the lines that ``data`` completes above the table."""
        self._print(self._lines.feed(data))

    def note(self, note: str) -> None:
        """Print a line above the table."""
        self._print([f"pvtime: {note}"])

    def moment(self, moment: Moment) -> None:
        """Draw the tables: the one of shares only where the terminal has room for both."""
        from rich.console import Group

        from pvtime.report.table import moment_table, shares_table, vcpu_notes

        first = moment_table(moment, TITLE.format(moment.elapsed_seconds))
        second = shares_table(moment, boot=False)
        notes = vcpu_notes(moment)
        lines = first.row_count + second.row_count + len(notes) + TABLE_LINES
        shown: list[ConsoleRenderable | str]
        shown = [first, *notes, "", second] if lines <= self._live.console.height else [first, *notes]
        self._live.update(Group(*shown), refresh=True)

    def _print(self, lines: list[str]) -> None:
        if lines:
            self._live.console.print("\n".join(lines), soft_wrap=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._print(self._lines.flush())
        self._live.stop()
