# SPDX-License-Identifier: GPL-2.0-or-later
"""How a machine that runs may leave: by ``--save-at``, or when asked over its control socket."""

from __future__ import annotations

import os
import threading
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pvtime.engine.base import Outcome
from pvtime.errors import PvtimeError, UsageError
from pvtime.run.inbox import EngineEnded, Inbox
from pvtime.run.session import Session
from pvtime.run.source import BuiltMachine

if TYPE_CHECKING:
    from pvtime.run.control import Control
    from pvtime.run.keeper import Keeper
    from pvtime.snapshot.address import OwnSocket

__all__ = ["Departure", "listen", "refuse_existing"]


def refuse_existing(directory: Path) -> None:
    """Check, before anything runs, that a machine can be saved to ``directory`` at the end.

    :raises UsageError: something is there, or its parent is no directory.
    """
    parent = directory.absolute().parent
    if os.path.lexists(directory):
        raise UsageError(f"{directory} is there already, and nothing is overwritten: choose another name")
    if not parent.is_dir():
        raise UsageError(f"{parent} is no directory: create it first")


def listen(path: Path) -> OwnSocket:
    """Return a control socket. Who connects is served when the machine runs.

    :raises UsageError: it cannot be at ``path``.
    """
    from pvtime.snapshot.address import OwnSocket

    try:
        return OwnSocket(str(path))
    except OSError as error:
        raise UsageError(f"--control {path}: {error.strerror or error}") from error


class Departure:
    """A run's. What it takes is imported when it is asked for: most runs end where they began.

    :param listener: the control socket; None: there is none.
    """

    def __init__(self, made: BuiltMachine, inbox: Inbox, listener: OwnSocket | None) -> None:
        self._made = made
        self._inbox = inbox
        self._listener = listener
        self._control: Control | None = None
        self._saver: threading.Thread | None = None
        self.session: Session | None = None

    @cached_property
    def _keeper(self) -> Keeper:
        from pvtime.run.keeper import Keeper

        return Keeper(
            self._made.engine,
            self._made.machine,
            agent=self._made.agent,
            release=lambda: self.session.release if self.session is not None else None,
            ended=lambda outcome: self._inbox.put(EngineEnded(outcome)),
        )

    def begin(self) -> None:
        """The machine runs: tell who sent it, and serve who asks for it."""
        if self._made.on_start is not None:
            self._made.on_start()
        if self._listener is not None:
            from pvtime.run.control import Control

            self._control = Control(self._listener, self._keeper)

    def save(self, directory: Path) -> None:
        """Begin to save the machine to ``directory``; the run ends when that is done, or cannot be."""

        def save() -> None:
            try:
                keeper.save(directory)
            except PvtimeError as error:
                self._inbox.put(EngineEnded(Outcome.FAILED, error))

        keeper = self._keeper
        self._saver = threading.Thread(target=save, name="pvtime-save", daemon=True)
        self._saver.start()

    def close(self) -> None:
        """Serve nobody any more; what is being saved is finished, what is being sent is given up."""
        if self._saver is not None or self._control is not None:
            self._keeper.close()
        if self._saver is not None:
            self._saver.join()
        if self._control is not None:
            self._control.close()
