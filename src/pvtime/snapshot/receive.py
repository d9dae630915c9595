# SPDX-License-Identifier: GPL-2.0-or-later
"""The target's side of a live migration: peers are served in turn until one has sent a machine."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from pvtime.engine.base import Engine
from pvtime.errors import MigrationError, PvtimeError, oserror_context
from pvtime.machine.machine import Machine
from pvtime.snapshot.codec import decode, from_json, prepare
from pvtime.snapshot.description import Description
from pvtime.snapshot.state import SavedState
from pvtime.snapshot.stream import (
    FORMAT,
    MAX_ROUNDS,
    MESSAGE_TIMEOUT_S,
    MIN_RATE,
    PAGES_HEADER_SIZE,
    Connection,
    FrameKind,
    Hello,
    MigrationStream,
)

__all__ = ["BuildMachine", "ReceivedMachine", "await_machine", "confirm", "receive"]

MAX_DROPPED: Final = 100
"""Peers that may fail before :func:`await_machine` gives up."""

HELLO_TIMEOUT_S: Final = 10.0
"""Seconds in which a peer must have sent HELLO: as long as one that says nothing keeps others waiting."""

SCAN_RATE: Final = 32 << 20
"""Bytes a second in which the slowest source looks for what has changed in its memory."""

BuildMachine: TypeAlias = Callable[[Description], tuple[Machine, Engine]]
"""Builds a machine of a description, and an engine that has not started."""


@dataclass(frozen=True)
class ReceivedMachine:
    """A machine that was received, with an engine that has not started."""

    description: Description
    machine: Machine
    engine: Engine


def await_machine(
    listener: socket.socket,
    protect: Callable[[socket.socket], Connection],
    build: BuildMachine,
    dropped: Callable[[str], object],
    *,
    max_dropped: int = MAX_DROPPED,
) -> tuple[ReceivedMachine, MigrationStream]:
    """Serve peers in turn until one has sent a machine; then do as after :func:`receive`.

    A peer that fails, whatever the reason, is dropped, and the next one is awaited.

    :param protect: returns a peer's connection with TLS, or as it is.
    :param dropped: called with the reason for which a peer was dropped.
    :raises MigrationError: ``max_dropped`` peers failed, or the host accepts no connection.
    """
    reason = "none came"
    for _ in range(max_dropped):
        with oserror_context("no connection can be accepted", MigrationError):
            accepted, _ = listener.accept()
        with contextlib.ExitStack() as undo:
            undo.callback(accepted.close)
            try:
                stream = MigrationStream(protect(accepted))
                undo.callback(stream.close)
                received = receive(stream, build)
            except PvtimeError as error:
                reason = str(error)
                dropped(reason)
                continue
            undo.pop_all()
            return received, stream
    raise MigrationError(f"{max_dropped} peers were dropped and none sent a machine; the last one: {reason}")


def receive(stream: MigrationStream, build: BuildMachine) -> ReceivedMachine:
    """Receive a machine, which is this process's from now on; start the engine, then call :func:`confirm`.

    :raises MigrationError: the peer gave up, or sent an impossible frame.
    :raises PvtimeError: this host cannot run the machine.
    """
    with contextlib.ExitStack() as undo:
        try:
            description = _receive_description(stream)
            machine, engine = build(description)
            undo.callback(machine.close)
            undo.callback(engine.stop)
            prepare(SavedState, engine.state_type)  # before the guest is paused there
            _receive_memory_and_state(stream, machine).restore(machine, engine, "the peer's STATE")
            stream.send(FrameKind.READY)
            stream.receive(FrameKind.GO)
        except PvtimeError as error:
            stream.give_up(str(error))
            raise
        undo.pop_all()
    return ReceivedMachine(description, machine, engine)


def confirm(stream: MigrationStream) -> None:
    """Tell the source that the machine runs, and close. It runs whether or not the source still listens."""
    with contextlib.suppress(MigrationError):
        stream.send(FrameKind.RUNNING)
    stream.close()


def _receive_description(stream: MigrationStream) -> Description:
    """Return the checked description, with the images."""
    _, text = stream.receive(FrameKind.HELLO, timeout_s=HELLO_TIMEOUT_S)
    document = from_json(bytes(text), "the peer's HELLO")
    if document.get("format") != FORMAT:
        raise MigrationError(
            f"the peer's protocol is {str(document.get('format'))[:40]!r}, this pvtime's is {FORMAT!r}: "
            "use the same version of pvtime for both"
        )
    description = decode(Hello, document, "the peer's HELLO").description
    description.check("the peer's HELLO")
    _, kernel = stream.receive(FrameKind.KERNEL, limit=description.config.kernel.image_size)
    _, initrd = stream.receive(FrameKind.INITRD, limit=description.config.memory)
    return description.with_images(bytes(kernel), bytes(initrd))


def _receive_memory_and_state(stream: MigrationStream, machine: Machine) -> SavedState:
    """Fill the machine's memory; return the state when the digest has proved that all of it is intact."""
    # A page that the guest writes meanwhile may be sent twice in a round.
    size = sum(memory.size for memory in machine.memories)
    left = 2 * (MAX_ROUNDS + 1) * size
    # Each frame has its time, but a peer that sends a byte in each would never have sent everything.
    stream.set_deadline((MAX_ROUNDS + 1) * (MESSAGE_TIMEOUT_S + size / SCAN_RATE))
    while True:
        kind, content = stream.receive(FrameKind.PAGES, FrameKind.STATE)
        if kind is FrameKind.STATE:
            break
        ipa = int.from_bytes(content[:PAGES_HEADER_SIZE], "little")
        data = memoryview(content)[PAGES_HEADER_SIZE:]
        left -= len(data)
        stream.extend_deadline(len(data) / MIN_RATE)
        if not data or left < 0:
            raise MigrationError(f"the peer sent {'too much' if data else 'no'} memory in PAGES at {ipa:#x}")
        machine.memory_at(ipa, len(data)).write(ipa, data)
    stream.set_deadline(None)
    expected = stream.digest
    _, digest = stream.receive(FrameKind.DIGEST)
    if digest != expected:
        raise MigrationError("the machine was damaged on its way: its checksum is wrong")
    return decode(SavedState, from_json(bytes(content), "the peer's STATE"), "the peer's STATE")
