# SPDX-License-Identifier: GPL-2.0-or-later
"""Export of a run's machine: at a time (``--save-at``), and on request over the control socket.

The modules that save and migrate are imported at the first use: most runs need neither.
"""

from __future__ import annotations

import errno
import threading
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pvtime.errors import PvtimeError, UsageError, host_reason
from pvtime.run.inbox import EngineEnded, Inbox, SaveFailed
from pvtime.run.session import Session
from pvtime.run.source import BuiltMachine

if TYPE_CHECKING:
    from pvtime.run.control import ControlServer
    from pvtime.run.exporter import Exporter
    from pvtime.snapshot.address import OwnSocket

__all__ = ["ExportControl", "listen"]


def listen(path: Path) -> OwnSocket:
    """Return a control socket; clients are served once the machine runs.

    :raises UsageError: the host refuses ``path``.
    """
    from pvtime.snapshot.address import MAX_PATH, OwnSocket

    try:
        return OwnSocket(str(path))
    except OSError as error:
        reason = host_reason(error)
        if error.errno in (errno.EADDRINUSE, errno.EEXIST):
            reason = "it exists already: choose another name"
        elif error.errno is None:
            reason = f"its name is too long for a socket: give one of at most {MAX_PATH} bytes"
        raise UsageError(f"control socket {path}: {reason}") from error


class ExportControl:
    """Export of one run's machine.

    :param listener: the control socket; None: the run has none.
    """

    def __init__(self, built: BuiltMachine, inbox: Inbox, listener: OwnSocket | None) -> None:
        self._built = built
        self._inbox = inbox
        self._listener = listener
        self._server: ControlServer | None = None
        self._saver: threading.Thread | None = None
        self.session: Session | None = None
        """Knows the kernel's release; set before the machine runs."""

    @cached_property
    def _exporter(self) -> Exporter:
        from pvtime.run.exporter import Exporter

        return Exporter(
            self._built.engine,
            self._built.machine,
            agent=self._built.agent,
            release=lambda: self.session.release if self.session is not None else None,
            ended=lambda outcome: self._inbox.put(EngineEnded(outcome)),
        )

    def begin(self) -> None:
        """The machine runs: report that to the process that sent it, and serve the control socket."""
        if self._built.on_start is not None:
            self._built.on_start()
        if self._listener is not None:
            from pvtime.run.control import ControlServer

            self._server = ControlServer(self._listener, self._exporter)

    def save(self, directory: Path) -> None:
        """Start to save the machine to ``directory``; the run ends when that has succeeded.

        If it fails, the machine runs on, and :class:`SaveFailed` is put into the inbox.
        """

        def save() -> None:
            try:
                exporter.save(directory)
            except PvtimeError as error:
                error.exit_code = PvtimeError.exit_code  # the run has begun
                self._inbox.put(SaveFailed(error))

        exporter = self._exporter
        self._saver = threading.Thread(target=save, name="pvtime-save", daemon=True)
        self._saver.start()

    def close(self) -> None:
        """Serve no more requests; finish a save, cancel a migration."""
        if self._saver is not None or self._server is not None:
            self._exporter.close()
        if self._saver is not None:
            self._saver.join()
        if self._server is not None:
            self._server.close()
