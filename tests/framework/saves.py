# SPDX-License-Identifier: GPL-2.0-or-later
"""A small machine to save and load, and saves that are killed.

As a program: ``saves.py random COUNT DIRECTORY SEED`` kills so many saves at random moments, ``saves.py steps
DIRECTORY`` one before each of its calls to the host. It prints what was found after the kills, as JSON.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final

from pvtime.errors import SavedStateError
from pvtime.machine.image import KernelImage
from pvtime.machine.layout import CONSOLE
from pvtime.machine.machine import MachineConfig, MachineState
from pvtime.machine.memory import GuestMemory
from pvtime.machine.uart import Ns16550
from pvtime.snapshot.description import Description
from pvtime.snapshot.directory import load, write
from pvtime.snapshot.state import SavedState

__all__ = ["HOST_CALLS", "SmallMachine", "load_number", "write_number"]

RAM: Final = 3 << 20
EXTENTS: Final = ((0, 4096), (0x5000, 0x3000), (0xFF000, 0x2000), (0x2FF000, 4096))
"""Of the RAM: at its start and end, apart, and across a MiB."""

HOST_CALLS: Final = ("mkdir", "open", "truncate", "pwrite", "fsync", "rename")
"""What a save changes the disk with, in the module os."""

_UART = Ns16550(CONSOLE, lambda _level: None, lambda _data: None).state()
DEVICES: Final = MachineState(_UART, _UART)

LONGEST: Final = 0.004
"""Seconds of a CPU until a kill, which comes at the kernel's next tick; a save takes 1 to 2 ms of them."""


class SmallMachine:
    """Two regions of memory, and a machine of which every part tells its number."""

    def __init__(self) -> None:
        self.memories = [
            GuestMemory(0x4000_0000, RAM, "RAM"),
            GuestMemory(0x90A_0000, 1 << 16, "stolen time"),
        ]

    def __enter__(self) -> SmallMachine:
        return self

    def __exit__(self, *_: object) -> None:
        for memory in self.memories:
            memory.close()

    def set(self, number: int) -> tuple[Description, SavedState]:
        """Become the machine of this number."""
        ram, stolen = self.memories
        for at, length in EXTENTS:
            ram.write(ram.base + at, bytes([number % 255 + 1]) * length)
        stolen.store_u64(stolen.base + 8, number)
        kernel = KernelImage(b"kernel %d" % number, text_offset=0, image_size=4096, page_size=None)
        description = Description(
            "unicorn", MachineConfig(1, RAM, kernel, append=f"number={number}"), agent=False, release=None
        )
        return description, SavedState(DEVICES, {"number": number})

    def contents(self) -> list[bytes]:
        """Return all memory."""
        return [memory.read(memory.base, memory.size) for memory in self.memories]


def write_number(path: Path, number: int) -> int:
    """Save the machine of this number."""
    with SmallMachine() as machine:
        return write(path, *machine.set(number), machine.memories)


def load_number(path: Path) -> int:
    """Load a machine, and return its number if all of it is of that number."""
    with load(path) as saved, SmallMachine() as restored, SmallMachine() as expected:
        saved.fill(restored.memories)
        number = saved.state.engine["number"]
        assert (saved.description, saved.state) == expected.set(number), "of two machines"
        assert restored.contents() == expected.contents(), "memory of another machine"
    assert isinstance(number, int)
    return number


@dataclass
class Found:
    """What was on the disk after kills."""

    kills: int = 0
    complete: int = 0
    """Saved machines that loaded, and were right."""
    leftovers: int = 0
    """Temporary directories."""
    most_leftovers: int = 0
    """At one time."""
    loaded_leftovers: int = 0
    wrong: int = 0
    """Saved machines that did not load."""

    def look(self, directory: Path) -> None:
        """Look at everything there, and remove what is complete."""
        names = sorted(directory.iterdir())
        unfinished = [path for path in names if ".partial-" in path.name]
        self.leftovers += len(unfinished)
        self.most_leftovers = max(self.most_leftovers, len(unfinished))
        self.loaded_leftovers += sum(map(loads, unfinished))
        for path in names:
            if path not in unfinished:
                right = loads(path)
                self.complete += right
                self.wrong += not right
                shutil.rmtree(path)


def loads(path: Path) -> bool:
    """Whether a machine loads."""
    try:
        load_number(path)
    except SavedStateError:
        return False
    return True


def in_child(work: Callable[[], object]) -> int:
    """Have a copy of this warm process do something; return its id."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(1)
    return child


def save_until_killed(directory: Path, cpu_s: float) -> None:
    """Save machines under one name, and move each away when it is complete, for so much time on a CPU.

    The kernel kills then, in the midst of whatever it is. A time by the wall would be none of the save's on a
    busy host.
    """
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    for number in count():
        write_number(directory / "machine", number)
        os.rename(directory / "machine", directory / f"done-{number}")


def kill_at_random(directory: Path, kills: int, seed: int) -> Found:
    """Kill saves at random moments."""
    chance = random.Random(seed)
    found = Found()
    write_number(directory / "warm", 0)  # all that is imported at the first save is imported now
    found.look(directory)
    for _ in range(kills):
        child = in_child(partial(save_until_killed, directory, chance.uniform(0.000_1, LONGEST)))
        _, status = os.waitpid(child, 0)
        found.kills += os.WIFSIGNALED(status)
        found.look(directory)
    return found


def save_until(path: Path, last: int) -> None:
    """Save a machine, and die before the call to the host of this number."""
    calls = count()

    def dying(call: Callable[..., Any]) -> Callable[..., Any]:
        def die_or_call(*arguments: Any, **named: Any) -> Any:
            if next(calls) == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)

        return die_or_call

    for name in HOST_CALLS:
        setattr(os, name, dying(getattr(os, name)))
    write_number(path, 1)
    os._exit(0)


def kill_at_steps(directory: Path) -> Found:
    """Kill a save before each of its calls to the host, until one comes through."""
    found = Found()
    for last in count():
        place = directory / str(last)
        place.mkdir()
        child = in_child(partial(save_until, place / "machine", last))
        _, status = os.waitpid(child, 0)
        found.kills += os.WIFSIGNALED(status)
        found.look(place)
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == 0, "the save failed"
            return found
    raise AssertionError


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["random", kills, directory, seed]:
            print(json.dumps(asdict(kill_at_random(Path(directory), int(kills), int(seed)))))
        case ["steps", directory]:
            print(json.dumps(asdict(kill_at_steps(Path(directory)))))
