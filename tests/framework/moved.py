# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine taken down and set up again elsewhere, by way of text and bytes alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from framework.payload import Guest
from pvtime.engine.base import Engine
from pvtime.engine.unicorn.engine import UnicornEngine
from pvtime.machine.machine import Machine, MachineConfig, MachineState
from pvtime.machine.memory import GuestMemory
from pvtime.machine.pages import extents
from pvtime.snapshot.codec import JsonObject, decode, encode, from_json, to_json

__all__ = ["Image", "put", "restored", "take"]


@dataclass(frozen=True)
class Image:
    """All of a machine."""

    config: MachineConfig
    devices: str
    engine: str
    memory: list[tuple[int, bytes]]

    def document(self) -> JsonObject:
        """Return the engine's state, to look into or to damage."""
        return from_json(self.engine, "the engine's state")

    def with_document(self, document: JsonObject) -> Image:
        """Return the same machine with another state of the engine."""
        return Image(self.config, self.devices, json.dumps(document), self.memory)


def take(machine: Machine, engine: Engine) -> Image:
    """Take a machine down: it stays paused."""
    engine.pause()
    state = to_json(encode(engine.state()))
    contents = [part for memory in machine.memories for part in _contents(memory)]
    return Image(machine.config, to_json(encode(machine.state())), state, contents)


def _contents(memory: GuestMemory) -> list[tuple[int, bytes]]:
    return [(memory.base + at, memory.read(memory.base + at, size)) for at, size in extents(memory)]


def put(
    image: Image,
    options: Mapping[str, str],
    console: Callable[[bytes], object],
    agent: Callable[[bytes], object],
) -> tuple[Machine, UnicornEngine]:
    """Set a machine up from an image; its engine has not started."""
    machine = Machine(image.config, console, agent)
    engine = UnicornEngine(machine, options)
    for ipa, data in image.memory:
        machine.memory_at(ipa, len(data)).write(ipa, data)
    machine.restore(decode(MachineState, from_json(image.devices, "the devices"), "the devices"))
    engine.restore(decode(engine.state_type, image.document(), "the engine's state"))
    return machine, engine


@contextmanager
def restored(image: Image, internals: str) -> Iterator[Guest[UnicornEngine]]:
    """Set up an image; it does not run yet."""
    machine, engine = put(image, {"internals": internals}, lambda _: None, lambda _: None)
    try:
        yield Guest(machine, engine)
    finally:
        engine.stop()
        machine.close()
