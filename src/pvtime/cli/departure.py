# SPDX-License-Identifier: GPL-2.0-or-later
"""How a machine that runs may leave: by ``--save-at``, or when asked over its control socket."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pvtime.cli.source import Made
from pvtime.engine.base import Outcome
from pvtime.errors import PvtimeError, UsageError
from pvtime.report.inbox import Inbox
from pvtime.report.plan import Ended
from pvtime.report.session import Session

if TYPE_CHECKING:
    from pvtime.transfer.keeper import Keeper

__all__ = ["Departure", "refuse_existing"]


def refuse_existing(directory: Path) -> None:
    """Check, before anything runs, that a machine can be saved to ``directory`` at the end.

    :raises UsageError: something is there, or its parent is no directory.
    """
    parent = directory.absolute().parent
    if os.path.lexists(directory):
        raise UsageError(f"{directory} is there already, and nothing is overwritten: choose another name")
    if not parent.is_dir():
        raise UsageError(f"{parent} is no directory: create it first")


class Departure:
    """A run's. What it takes is imported when it is asked for: most runs end where they began."""

    def __init__(self, made: Made, inbox: Inbox) -> None:
        self._made = made
        self._inbox = inbox
        self.session: Session | None = None

    def saving(self, directory: Path) -> Callable[[], None]:
        """Return what saves the machine to ``directory`` and ends the run, or says why it could not."""

        def save() -> None:
            try:
                self._keeper().save(directory)
            except PvtimeError as error:
                self._inbox.put(Ended(Outcome.FAILED, error))

        return save

    @contextlib.contextmanager
    def listen(self, path: Path) -> Iterator[None]:
        """Serve the control socket at ``path``.

        :raises UsageError: it cannot be there.
        """
        from pvtime.transfer.control import Control

        with contextlib.closing(Control(path, self._keeper())):
            yield

    def _keeper(self) -> Keeper:
        from pvtime.transfer.keeper import Keeper

        return Keeper(
            self._made.engine,
            self._made.machine,
            agent=self._made.agent,
            release=lambda: self.session.release if self.session is not None else None,
            ended=lambda outcome: self._inbox.put(Ended(outcome)),
        )
