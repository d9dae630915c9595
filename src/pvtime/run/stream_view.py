# SPDX-License-Identifier: GPL-2.0-or-later
"""A run's samples and events as lines of JSON, while it runs (``--report-stream``)."""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from pathlib import Path
from typing import Any, Final

from pvtime.errors import UsageError, host_reason
from pvtime.report import stream
from pvtime.report.model import Moment
from pvtime.report.output_file import open_stream
from pvtime.report.views import View
from pvtime.run.events import RunEvent
from pvtime.run.options import STDOUT

__all__ = ["LineWriter", "StreamView"]

QUEUE_LENGTH: Final = 10_000
"""Lines that wait for a reader; more are lost, and counted."""

CLOSE_TIMEOUT_S: Final = 10.0
"""Seconds for the last lines, at the end, to a reader that takes none: one on a busy host may be late."""


class LineWriter:
    """Writes lines to a file on a thread of its own: a pipe that nobody reads must not hold up a run.

    :param length: lines that wait for a reader.
    :param patience_s: seconds for the last lines, to a reader that takes none.
    """

    def __init__(
        self, path: Path, *, length: int = QUEUE_LENGTH, patience_s: float = CLOSE_TIMEOUT_S
    ) -> None:
        self._path = path
        self._patience_s = patience_s
        self._queue: queue.Queue[str | None] = queue.Queue(length)
        self._lost = 0
        self._error: OSError | UsageError | None = None
        self._thread = threading.Thread(target=self._run, name="pvtime-stream", daemon=True)
        self._thread.start()

    def put(self, document: dict[str, Any]) -> None:
        """Queue a line; for any thread."""
        try:
            self._queue.put_nowait(json.dumps(document) + "\n")
        except queue.Full:
            self._lost += 1

    def close(self) -> None:
        """Write what is queued.

        :raises UsageError: lines were lost, since the file system refused them or nobody read them.
        """
        try:
            self._queue.put(None, timeout=self._patience_s)
            self._thread.join(self._patience_s)
        except queue.Full:
            self._lost += 1
        if isinstance(self._error, UsageError):
            raise self._error
        if self._error is not None:
            raise UsageError(f"cannot write the stream to {self._path}: {host_reason(self._error)}")
        if self._lost or self._thread.is_alive():
            raise UsageError(f"{self._path}: lines of the stream were lost, since nobody took them in time")

    def _run(self) -> None:
        try:
            if self._path == STDOUT:
                self._write(sys.stdout.fileno())
            else:
                fd = open_stream(self._path, "the stream")
                try:
                    self._write(fd)
                finally:
                    os.close(fd)
        except (OSError, UsageError) as error:
            self._error = error

    def _write(self, fd: int) -> None:
        while (line := self._queue.get()) is not None:
            data = line.encode()
            while data:
                data = data[os.write(fd, data) :]


class StreamView:
    """Shows a run on another view, and passes samples and events on to a writer.

    :param interval: seconds between two samples of the stream.
    """

    def __init__(self, view: View, writer: LineWriter, interval: float) -> None:
        self._view = view
        self._writer = writer
        self._stream_interval = interval
        self._next = 0.0

    @property
    def interval(self) -> float | None:
        """Seconds between two moments."""
        shown = self._view.interval
        return self._stream_interval if shown is None else min(shown, self._stream_interval)

    @property
    def console_interval(self) -> float | None:
        """Seconds for which console output may be delayed."""
        return self._view.console_interval

    def begin(self, machine: dict[str, Any]) -> None:
        """Write the first line."""
        self._writer.put(stream.header(machine))

    def console(self, data: bytes) -> None:
        """Show console output."""
        self._view.console(data)

    def note(self, note: str) -> None:
        """Show a line of pvtime's own."""
        self._view.note(note)

    def moment(self, moment: Moment) -> None:
        """Show new figures, and write them if it is time."""
        if moment.elapsed_seconds >= self._next:
            self._next = moment.elapsed_seconds + self._stream_interval
            self._writer.put(stream.sample_document(moment))
        self._view.moment(moment)

    def last(self, moment: Moment) -> None:
        """Write the last figures."""
        self._writer.put(stream.sample_document(moment))

    def event(self, event: RunEvent) -> None:
        """Write an event; from any thread."""
        self._writer.put(stream.event_document(event))
