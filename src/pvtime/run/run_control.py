# SPDX-License-Identifier: GPL-2.0-or-later
"""Control of a run's machine: its socket, and its save at a time (``--save-at``)."""

from __future__ import annotations

import errno
import select
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pvtime.errors import PvtimeError, UsageError, host_reason
from pvtime.run.inbox import Inbox, SaveFailed
from pvtime.run.live_machine import LiveMachine

if TYPE_CHECKING:
    from pvtime.run.control_server import ControlServer
    from pvtime.snapshot.address import OwnSocket

__all__ = ["RunControl", "listen"]


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


class RunControl:
    """Control of one run's machine.

    :param listener: the control socket; None: the run has none.
    :param on_start: called when the machine runs.
    """

    def __init__(
        self,
        live: LiveMachine,
        inbox: Inbox,
        listener: OwnSocket | None,
        on_start: Callable[[], object] = lambda: None,
    ) -> None:
        self._live = live
        self._inbox = inbox
        self._listener = listener
        self._on_start = on_start
        self._server: ControlServer | None = None
        self._starter: threading.Thread | None = None
        self._closing = False
        self._saver: threading.Thread | None = None

    def begin(self) -> None:
        """The machine runs: report that to the process that sent it, and serve the control socket."""
        if self._live.built.on_start is not None:
            self._live.built.on_start()
        if self._listener is not None:
            self._starter = threading.Thread(target=self._serve, name="pvtime-control", daemon=True)
            self._starter.start()
        self._on_start()

    def _serve(self) -> None:
        """Import and start the server for the first client: most runs have none."""
        assert self._listener is not None
        select.select([self._listener], [], [])
        if not self._closing:
            from pvtime.run.control_server import ControlServer

            self._server = ControlServer(self._listener, self._live)

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

        exporter = self._live.exporter
        self._saver = threading.Thread(target=save, name="pvtime-save", daemon=True)
        self._saver.start()

    def close(self) -> None:
        """Serve no more requests; finish a save, cancel a migration."""
        self._closing = True
        if self._starter is not None and self._listener is not None:
            if self._server is None:
                import socket

                self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
            self._starter.join()
        if (exporter := self._live.used_exporter) is not None:
            exporter.close()
        if self._saver is not None:
            self._saver.join()
        if self._server is not None:
            self._server.close()
