# SPDX-License-Identifier: GPL-2.0-or-later
"""Save, migration, pause and reset of a machine that runs."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pvtime.engine.base import Engine, Outcome
from pvtime.errors import EngineError, GuestEndedError, UsageError
from pvtime.machine.machine import Machine
from pvtime.snapshot.address import PEER_TIMEOUT_S
from pvtime.snapshot.codec import prepare
from pvtime.snapshot.description import Description
from pvtime.snapshot.directory import write
from pvtime.snapshot.endpoint import Endpoint
from pvtime.snapshot.manifest import Manifest
from pvtime.snapshot.send import PAUSED_TIMEOUT_S, MigrationResult, send
from pvtime.snapshot.state import SavedState
from pvtime.snapshot.stream import MigrationStream

__all__ = ["Exporter", "SaveResult"]

QUICK_S: Final = 2.0
"""Seconds for which a pause, a resumption or a reset waits for another one."""


@dataclass(frozen=True)
class SaveResult:
    """Figures of a save."""

    bytes: int
    """Size of the files' data; holes are not counted."""
    pause_ns: int
    """Time for which the machine did not run; if it has ended, until it had been saved."""


class Exporter:
    """Saves and migrates one machine. A machine has one exporter, which pauses and resumes it.

    Methods may be called from any thread; a second save or migration is refused while one is in progress.

    :param agent: the stock userland answers on the second serial port.
    :param release: returns the kernel's release, if it is known.
    :param ended: called when the machine has left this process.
    :param peer_timeout_s: time in which a migration's target must accept the connection, and send or take a
        whole message.
    :param paused_timeout_s: time for all that is sent and received while the guest is paused.
    """

    def __init__(
        self,
        engine: Engine,
        machine: Machine,
        *,
        agent: bool,
        release: Callable[[], str | None],
        ended: Callable[[Outcome], object],
        peer_timeout_s: float = PEER_TIMEOUT_S,
        paused_timeout_s: float = PAUSED_TIMEOUT_S,
    ) -> None:
        self._engine = engine
        self._machine = machine
        self._agent = agent
        self._release = release
        self._ended = ended
        self._peer_timeout_s = peer_timeout_s
        self._paused_timeout_s = paused_timeout_s
        self._in_progress = threading.Lock()
        self._stream: MigrationStream | None = None
        self._left = False
        """The machine is no longer this process's."""
        self._closed = False
        self._held = False
        """The machine was paused by :meth:`pause`."""

    @property
    def paused(self) -> bool:
        """Whether the machine is paused by :meth:`pause`."""
        return self._held

    def pause(self) -> None:
        """Pause the machine until :meth:`resume`; harmless when it is paused.

        :raises GuestEndedError: the machine has ended.
        """
        with self._exclusive(QUICK_S):
            self._engine.pause()
            self._held = True

    def resume(self) -> None:
        """Resume the machine after :meth:`pause`; harmless when it is not paused.

        :raises GuestEndedError: the machine has ended.
        """
        with self._exclusive(QUICK_S):
            self._held = False
            self._engine.resume()

    def reset(self) -> None:
        """Boot the machine again.

        :raises EngineError: it is paused, or has ended.
        """
        with self._exclusive(QUICK_S):
            if self._held:
                raise EngineError("the machine is paused: resume it to reset it")
            self._engine.reset()

    def save(self, path: Path, *, keep_running: bool = False) -> SaveResult:
        """Save the machine to a new directory, and end it here unless ``keep_running``.

        :raises SavedStateError: ``path`` exists, or cannot be written; the machine runs on.
        :raises EngineError: a machine with these devices cannot be saved.
        :raises GuestEndedError: the machine has ended.
        """
        with self._exclusive():
            self._machine.refuse_unsavable()
            prepare(Manifest, self._engine.state_type)  # before the pause
            began = time.monotonic_ns()
            with self._paused():
                state = SavedState.of(self._machine, self._engine)
                size = write(path, self._description(), state, self._machine.memories)
                if not keep_running:
                    self._leave(Outcome.SAVED)
            return SaveResult(size, time.monotonic_ns() - began)

    def migrate(self, peer: Endpoint, progress: Callable[[int, int], object]) -> MigrationResult:
        """Migrate the machine to the process that listens at ``peer``, and end it here.

        :param progress: called with number and bytes of each round; may raise to cancel the migration.
        :raises MigrationError: the migration failed; the machine runs on, unless the message says otherwise.
        :raises EngineError: the machine is paused, or has ended, or has a disk.
        """
        self._machine.refuse_unsavable()
        with self._exclusive(), self._connected(peer) as stream:
            if self._held:
                raise EngineError("the machine is paused: resume it to migrate it")
            return send(
                stream,
                self._machine,
                self._engine,
                self._description(),
                committed=lambda: self._leave(Outcome.MIGRATED),
                progress=progress,
                paused_timeout_s=self._paused_timeout_s,
            )

    def close(self) -> None:
        """Refuse further requests; wait for a save, cancel a migration unless the machine has left."""
        self._closed = True
        stream = self._stream
        if stream is not None and not self._left:
            stream.cancel()
        with self._in_progress:
            return

    def _description(self) -> Description:
        return Description(self._engine.name, self._machine.config, self._agent, self._release())

    def _leave(self, outcome: Outcome) -> None:
        self._left = True
        self._ended(outcome)

    @contextlib.contextmanager
    def _exclusive(self, wait_s: float = 0.0) -> Iterator[None]:
        if not self._in_progress.acquire(timeout=wait_s):
            raise UsageError("the machine is being saved or migrated already: wait until that has ended")
        try:
            if self._closed or self._left or self._engine.wait(0) is not None:
                raise GuestEndedError("the machine has ended")
            yield
        finally:
            self._in_progress.release()

    @contextlib.contextmanager
    def _connected(self, peer: Endpoint) -> Iterator[MigrationStream]:
        connection = peer.connect(self._peer_timeout_s)
        with contextlib.closing(MigrationStream(connection, self._peer_timeout_s)) as stream:
            self._stream = stream
            if self._closed:
                stream.cancel()
            yield stream

    @contextlib.contextmanager
    def _paused(self) -> Iterator[None]:
        """Pause the machine for the block; it stays paused if it has left."""
        self._engine.pause()
        try:
            yield
        finally:
            if not (self._left or self._held):
                self._engine.resume()
