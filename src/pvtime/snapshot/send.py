# SPDX-License-Identifier: GPL-2.0-or-later
"""The source's side of a live migration: pre-copy, then stop and copy, then the hand-over."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from pvtime.engine.base import Engine
from pvtime.errors import MigrationError
from pvtime.machine.dirty import DirtyTracker
from pvtime.machine.machine import Machine
from pvtime.snapshot.codec import encode, prepare, to_json
from pvtime.snapshot.description import Description
from pvtime.snapshot.state import SavedState
from pvtime.snapshot.stream import (
    FORMAT,
    MAX_ROUNDS,
    PAGES_HEADER_SIZE,
    FrameKind,
    Hello,
    MigrationStream,
)

__all__ = ["PAUSED_TIMEOUT_S", "MigrationResult", "SourceMigration", "send"]

LAST_ROUND_BYTES: Final = 1 << 20
"""Bytes: with less than that to send, another round would not make the pause shorter."""

PAUSED_TIMEOUT_S: Final = 10.0
"""Seconds of the whole pause, from the guest's last instruction here until the hand-over. With
``--steal-pauses`` its clock goes on, and a kernel takes 20 s without progress for a soft lockup."""

CONFIRM_TIMEOUT_S: Final = 30.0
"""Seconds in which the target must report that the machine runs."""


@dataclass(frozen=True)
class MigrationResult:
    """Figures of a migration. Times in ns."""

    rounds: int
    sent_bytes: int
    """All of them, images included."""
    paused_bytes: int
    """Bytes sent while the machine was paused."""
    pause_ns: int
    """From the pause here until the target reported that the machine runs."""
    total_ns: int


def send(
    stream: MigrationStream,
    machine: Machine,
    engine: Engine,
    description: Description,
    *,
    committed: Callable[[], object] = lambda: None,
    progress: Callable[[int, int], object] = lambda _round, _bytes: None,
    paused_timeout_s: float = PAUSED_TIMEOUT_S,
) -> MigrationResult:
    """Migrate a machine that runs.

    :param paused_timeout_s: time for all that is sent and received while the guest is paused.
    :param committed: called when the machine has become the target's.
    :param progress: called with number and bytes of each pre-copy round; may raise to cancel the migration.
    :raises MigrationError: the migration failed; the machine runs on here, unless the message says otherwise.
    """
    with contextlib.closing(SourceMigration(stream, machine, engine, description)) as migration:
        try:
            migration.precopy(progress)
            migration.stop_and_copy(paused_timeout_s)
            migration.commit()
        except BaseException as error:
            migration.abort(str(error))
            raise
        committed()
        return migration.await_target()


class SourceMigration:
    """A migration on the source's side; the methods are called in this order.

    Until :meth:`commit` has returned the machine is the source's, and :meth:`abort` resumes it. From then on
    it is the target's, and nothing resumes it here.
    """

    def __init__(
        self, stream: MigrationStream, machine: Machine, engine: Engine, description: Description
    ) -> None:
        self._stream = stream
        self._machine = machine
        self._engine = engine
        self._description = description
        self._tracker: DirtyTracker | None = None
        self._rounds = 0
        self._began_ns = time.monotonic_ns()
        self._paused_ns: int | None = None
        """Time of the pause."""
        self._precopied = 0
        """Bytes sent before the pause."""

    def precopy(self, progress: Callable[[int, int], object]) -> None:
        """Send description, images and memory while the guest runs, until little has changed."""
        hello = Hello(FORMAT, self._description.without_images())
        self._stream.send(FrameKind.HELLO, to_json(encode(hello), compact=True).encode())
        self._stream.send(FrameKind.KERNEL, self._description.config.kernel.data)
        self._stream.send(FrameKind.INITRD, self._description.config.initrd)
        prepare(SavedState, self._engine.state_type)  # before the pause
        self._tracker = self._engine.start_dirty_log()
        size = LAST_ROUND_BYTES
        while size >= LAST_ROUND_BYTES and self._rounds < MAX_ROUNDS:
            self._rounds += 1
            size = self._send_pages(self._tracker.changed())
            progress(self._rounds, size)

    def stop_and_copy(self, timeout_s: float) -> None:
        """Pause the guest and send the rest; return when the target has verified it and can start."""
        assert self._tracker is not None  # precopy() started it
        self._precopied, self._paused_ns = self._stream.sent, time.monotonic_ns()
        self._stream.set_deadline(timeout_s)
        self._engine.pause()
        self._send_pages(self._tracker.changed())
        state = SavedState.of(self._machine, self._engine)
        self._stream.send(FrameKind.STATE, to_json(encode(state), compact=True).encode())
        self._stream.send(FrameKind.DIGEST, self._stream.digest)
        self._stream.receive(FrameKind.READY)

    def commit(self) -> None:
        """Give the machine to the target: the point of no return.

        A GO that could not be sent whole does not start the target.
        """
        self._stream.send(FrameKind.GO)

    def abort(self, reason: str) -> None:
        """Keep the machine: resume it, and tell the target."""
        if self._paused_ns is not None:
            self._engine.resume()
        self._stream.give_up(reason)

    def await_target(self) -> MigrationResult:
        """Wait until the target reports that the machine runs.

        :raises MigrationError: it does not; the machine has ended here all the same.
        """
        self._stream.set_deadline(None)
        try:
            self._stream.receive(FrameKind.RUNNING, timeout_s=CONFIRM_TIMEOUT_S)
        except MigrationError as error:
            raise MigrationError(
                f"{error}; the machine has ended here; whether it runs there is not known"
            ) from error
        assert self._paused_ns is not None  # stop_and_copy() paused it
        now = time.monotonic_ns()
        return MigrationResult(
            rounds=self._rounds,
            sent_bytes=self._stream.sent,
            paused_bytes=self._stream.sent - self._precopied,
            pause_ns=now - self._paused_ns,
            total_ns=now - self._began_ns,
        )

    def close(self) -> None:
        """Stop tracking the guest's writes; harmless when repeated."""
        if self._tracker is not None:
            self._tracker.close()

    def _send_pages(self, changed: Iterable[tuple[int, bytes | memoryview]]) -> int:
        """Send memory; return its size in bytes."""
        size = 0
        for ipa, data in changed:
            self._stream.send(FrameKind.PAGES, ipa.to_bytes(PAGES_HEADER_SIZE, "little"), data)
            size += len(data)
        return size
