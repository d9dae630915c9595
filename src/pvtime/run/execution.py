# SPDX-License-Identifier: GPL-2.0-or-later
"""A command that runs in the guest, and ends the run (``--exec``)."""

from __future__ import annotations

import threading
from typing import Final

from pvtime.errors import GuestCommandError, PvtimeError
from pvtime.run.inbox import Inbox, QuitRequested
from pvtime.run.session import Session
from pvtime.run.shell_jobs import ShellResult

__all__ = ["Execution"]

NO_LIMIT_S: Final = 1e9


class Execution:
    """Runs a command when userland is up; the run ends with it."""

    def __init__(self, command: str, session: Session, inbox: Inbox) -> None:
        self._command = command
        self._session = session
        self._inbox = inbox
        self.result: ShellResult | None = None
        """The command's end; None: it has not ended."""
        self.error: GuestCommandError | None = None
        """The reason for which it has no end, or its files stayed in the guest; the machine had not ended."""
        self.notes: list[str] = []
        """Lines for the user."""
        threading.Thread(target=self._run, name="pvtime-exec", daemon=True).start()

    def _run(self) -> None:
        events, position = self._session.events, 0
        while not self._session.is_up:
            if events.closed:
                return
            _, position = events.read(position, None)
        try:
            self.result = self._session.shell(self._command, NO_LIMIT_S)
            self.notes = self._session.collect_share(NO_LIMIT_S)
        except GuestCommandError as error:
            self.error = error
        except PvtimeError:
            return  # the machine has ended
        self._inbox.put(QuitRequested())
