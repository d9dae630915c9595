# SPDX-License-Identifier: GPL-2.0-or-later
"""Saves a running machine, or moves it: what its user may ask for from outside while it runs."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pvtime.engine.base import Engine, Outcome
from pvtime.errors import EngineError, UsageError
from pvtime.machine.codec import JsonObject
from pvtime.machine.machine import Machine
from pvtime.run.requests import Moved, Saved
from pvtime.snapshot.address import Address
from pvtime.snapshot.contents import SavedMachine
from pvtime.snapshot.description import to_saved
from pvtime.snapshot.send import send
from pvtime.snapshot.state import state
from pvtime.snapshot.stream import Stream
from pvtime.snapshot.write import write

__all__ = ["Keeper"]


class Keeper:
    """The only one of its machine: two would have it run for the one while it is paused for the other.

    Any thread may ask, one is served at a time.

    :param agent: the stock userland answers on the second serial port.
    :param release: returns the kernel's release, as far as it is known.
    :param ended: is told when the machine has left this process.
    """

    def __init__(
        self,
        engine: Engine,
        machine: Machine,
        *,
        agent: bool,
        release: Callable[[], str | None],
        ended: Callable[[Outcome], object],
    ) -> None:
        self._engine = engine
        self._machine = machine
        self._agent = agent
        self._release = release
        self._ended = ended
        self._busy = threading.Lock()
        self._stream: Stream | None = None
        self._gone = False
        self._closed = False

    def save(self, path: Path, *, keep_running: bool = False) -> Saved:
        """Save the machine to a new directory, and end it here unless it is to be kept running.

        :raises SavedStateError: there is something at ``path``, or it cannot be written; the machine goes on.
        :raises EngineError: the machine has ended.
        """
        with self._serving():
            self._saved({})  # imports what it takes, which is not to be part of the pause
            began = time.monotonic_ns()
            with self._paused():
                saved = self._saved(state(self._machine, self._engine))
                size = write(path, saved, self._machine.memories)
                if not keep_running:
                    self._leave(Outcome.SAVED)
            return Saved(size, time.monotonic_ns() - began)

    def migrate(self, address: Address, progress: Callable[[int, int], object]) -> Moved:
        """Move the machine to the process that listens at ``address``, and end it here.

        :param progress: is told of each round's number and bytes.
        :raises MigrationError: the peer refuses, or has gone; the machine goes on, unless it says otherwise.
        :raises EngineError: the machine has ended.
        """
        with self._serving(), self._connected(address) as stream:
            return send(
                stream,
                self._engine,
                self._machine,
                self._saved({}),
                lambda: self._leave(Outcome.MIGRATED),
                progress,
            )

    def close(self) -> None:
        """Serve nobody any more. A save is waited for, a migration given up unless the machine has left."""
        self._closed = True
        stream = self._stream
        if stream is not None and not self._gone:
            stream.cancel()
        with self._busy:
            return

    def _saved(self, document: JsonObject) -> SavedMachine:
        return to_saved(self._engine.name, self._machine.config, self._agent, self._release(), document)

    def _leave(self, outcome: Outcome) -> None:
        self._gone = True
        self._ended(outcome)

    @contextlib.contextmanager
    def _serving(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise UsageError("the machine is being saved or moved already: wait for that to end")
        try:
            if self._closed or self._gone or self._engine.wait(0) is not None:
                raise EngineError("the machine has ended")
            yield
        finally:
            self._busy.release()

    @contextlib.contextmanager
    def _connected(self, address: Address) -> Iterator[Stream]:
        with contextlib.closing(Stream(address.connect())) as stream:
            self._stream = stream
            if self._closed:
                stream.cancel()
            yield stream

    @contextlib.contextmanager
    def _paused(self) -> Iterator[None]:
        """Keep the machine from running; it goes on afterwards, unless it has left."""
        self._engine.pause()
        try:
            yield
        finally:
            if not self._gone:
                self._engine.resume()
