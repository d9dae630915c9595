# SPDX-License-Identifier: GPL-2.0-or-later
"""The target's half of a live migration."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from pvtime.engine.base import Engine
from pvtime.errors import MigrationError, PvtimeError
from pvtime.machine.codec import JsonObject, decode, from_json
from pvtime.machine.machine import Machine
from pvtime.snapshot.contents import SavedMachine
from pvtime.snapshot.state import restore
from pvtime.snapshot.stream import FORMAT, PAGES_AT, Kind, Stream

__all__ = ["Build", "Hello", "confirm", "receive"]

Build: TypeAlias = Callable[[SavedMachine], tuple[Machine, Engine]]
"""Makes the machine that a description asks for, and an engine that has not started."""


@dataclass(frozen=True)
class Hello:
    """What the machine is."""

    format: str
    engine: str
    config: JsonObject


def receive(stream: Stream, build: Build) -> tuple[Machine, Engine]:
    """Take a machine over; start the engine, then call :func:`confirm`.

    :raises MigrationError: the peer gave up, or sent what it may not.
    :raises PvtimeError: this host cannot run the machine.
    """
    machine: Machine | None = None
    try:
        hello = _hello(stream)
        _, kernel = stream.receive(Kind.KERNEL)
        _, initrd = stream.receive(Kind.INITRD)
        machine, engine = build(SavedMachine(hello.engine, hello.config, {}, bytes(kernel), bytes(initrd)))
        restore(_pages_and_state(stream, machine), machine, engine)
        stream.send(Kind.READY)
        stream.receive(Kind.GO)
    except PvtimeError as error:
        stream.give_up(str(error))
        if machine is not None:
            machine.close()
        raise
    return machine, engine


def confirm(stream: Stream) -> None:
    """Tell the source that the machine runs. It does, whether or not the source is still there to hear."""
    with contextlib.suppress(MigrationError):
        stream.send(Kind.RUNNING)
    stream.close()


def _hello(stream: Stream) -> Hello:
    _, text = stream.receive(Kind.HELLO)
    document = from_json(bytes(text), "the peer's greeting")
    if document.get("format") != FORMAT:
        raise MigrationError(f"the peer speaks {str(document.get('format'))[:40]!r} and not {FORMAT!r}")
    return decode(Hello, document, "the peer's greeting")


def _pages_and_state(stream: Stream, machine: Machine) -> JsonObject:
    """Fill the machine's memory; return its state, once the digest has shown that all of it is right."""
    while True:
        kind, content = stream.receive(Kind.PAGES, Kind.STATE)
        if kind is Kind.STATE:
            break
        ipa = int.from_bytes(content[:PAGES_AT], "little")
        data = memoryview(content)[PAGES_AT:]
        machine.memory_at(ipa, len(data)).write(ipa, data)
    expected = stream.digest
    _, digest = stream.receive(Kind.DIGEST)
    if digest != expected:
        raise MigrationError("the machine was damaged on its way: the checksum is wrong")
    return from_json(bytes(content), "the machine's state")
