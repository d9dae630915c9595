# SPDX-License-Identifier: GPL-2.0-or-later
"""The source's half of a live migration."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from pvtime.engine.base import Engine
from pvtime.errors import MigrationError, PvtimeError
from pvtime.machine.codec import to_json
from pvtime.machine.machine import Machine
from pvtime.snapshot.contents import SavedMachine
from pvtime.snapshot.state import state
from pvtime.snapshot.stream import FORMAT, PAGES_AT, Kind, Stream

__all__ = ["ROUNDS", "Moved", "send"]

ROUNDS: Final = 8
"""At most, while the guest runs; a guest that writes faster than the socket takes is stopped then."""

FEW: Final = 1 << 20
"""Bytes: with less than that left another round would not make the pause shorter."""


@dataclass(frozen=True)
class Moved:
    """A machine that was moved. Times in ns."""

    rounds: int
    sent_bytes: int
    """All of it, images included."""
    paused_bytes: int
    """What was sent while the machine did not run."""
    pause_ns: int
    """From the source's pause until the target said that it runs."""
    total_ns: int


def send(
    stream: Stream,
    engine: Engine,
    machine: Machine,
    saved: SavedMachine,
    leave: Callable[[], object],
    progress: Callable[[int, int], object],
) -> Moved:
    """Move a machine that runs; see :mod:`pvtime.snapshot.stream` for the order.

    :param saved: what the machine is; its state is not looked at.
    :param leave: the machine is the target's from now on.
    :raises MigrationError: it did not work; the machine goes on here, unless the message says otherwise.
    """
    began = time.monotonic_ns()
    hello = {"format": FORMAT, "engine": saved.engine, "config": saved.config}
    stream.send(Kind.HELLO, to_json(hello).encode())
    stream.send(Kind.KERNEL, saved.kernel)
    stream.send(Kind.INITRD, saved.initrd)
    tracker = engine.start_dirty_log()
    try:
        rounds = 0
        while True:
            rounds += 1
            size = _send_pages(stream, tracker.changed())
            progress(rounds, size)
            if size < FEW or rounds == ROUNDS:
                break
        before, paused_at = stream.sent, time.monotonic_ns()
        stream.hurry()
        engine.pause()
        gone = False
        try:
            _send_pages(stream, tracker.changed())
            stream.send(Kind.STATE, to_json(state(machine, engine)).encode())
            stream.send(Kind.DIGEST, stream.digest)
            stream.receive(Kind.READY)
            stream.send(Kind.GO)
            gone = True
            leave()
            stream.receive(Kind.RUNNING)
        except MigrationError as error:
            if gone:
                raise MigrationError(f"{error}; the machine ended here, and may not run there") from error
            raise
        finally:
            if not gone:
                engine.resume()
    except PvtimeError as error:
        stream.give_up(str(error))
        raise
    finally:
        tracker.close()
    now = time.monotonic_ns()
    return Moved(rounds, stream.sent, stream.sent - before, now - paused_at, now - began)


def _send_pages(stream: Stream, changed: Iterable[tuple[int, bytes | memoryview]]) -> int:
    """Send memory; return its bytes."""
    size = 0
    for ipa, data in changed:
        stream.send(Kind.PAGES, ipa.to_bytes(PAGES_AT, "little"), data)
        size += len(data)
    return size
