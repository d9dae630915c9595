# SPDX-License-Identifier: GPL-2.0-or-later
"""The target's side of a live migration."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from pvtime.engine.base import Engine
from pvtime.errors import MigrationError, PvtimeError
from pvtime.machine.machine import Machine
from pvtime.snapshot.codec import decode, from_json, prepare
from pvtime.snapshot.description import Description
from pvtime.snapshot.state import SavedState
from pvtime.snapshot.stream import FORMAT, PAGES_HEADER_SIZE, FrameKind, Hello, MigrationStream

__all__ = ["BuildMachine", "ReceivedMachine", "confirm", "receive"]

BuildMachine: TypeAlias = Callable[[Description], tuple[Machine, Engine]]
"""Builds a machine of a description, and an engine that has not started."""


@dataclass(frozen=True)
class ReceivedMachine:
    """A machine that was received, with an engine that has not started."""

    description: Description
    machine: Machine
    engine: Engine


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
            _receive_memory_and_state(stream, machine).restore(machine, engine)
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
    _, text = stream.receive(FrameKind.HELLO)
    document = from_json(bytes(text), "the peer's HELLO")
    if document.get("format") != FORMAT:
        raise MigrationError(
            f"the peer's protocol is {str(document.get('format'))[:40]!r}, this pvtime's is {FORMAT!r}: "
            "use the same version of pvtime for both"
        )
    description = decode(Hello, document, "the peer's HELLO").description
    description.check()
    _, kernel = stream.receive(FrameKind.KERNEL)
    _, initrd = stream.receive(FrameKind.INITRD)
    return description.with_images(bytes(kernel), bytes(initrd))


def _receive_memory_and_state(stream: MigrationStream, machine: Machine) -> SavedState:
    """Fill the machine's memory; return the state when the digest has proved that all of it is intact."""
    while True:
        kind, content = stream.receive(FrameKind.PAGES, FrameKind.STATE)
        if kind is FrameKind.STATE:
            break
        ipa = int.from_bytes(content[:PAGES_HEADER_SIZE], "little")
        data = memoryview(content)[PAGES_HEADER_SIZE:]
        machine.memory_at(ipa, len(data)).write(ipa, data)
    expected = stream.digest
    _, digest = stream.receive(FrameKind.DIGEST)
    if digest != expected:
        raise MigrationError("the machine was damaged on its way: its checksum is wrong")
    return decode(SavedState, from_json(bytes(content), "the peer's STATE"), "the peer's STATE")
