# SPDX-License-Identifier: GPL-2.0-or-later
"""What has changed in a guest's memory between two moments, word by word."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

from pvtime.machine.layout import Region
from pvtime.machine.memory import GuestMemory

__all__ = ["Change", "Snapshot", "dump", "fields_of"]

_CHUNK = 1 << 16
_WORD = 8


@dataclass(frozen=True)
class Change:
    """Eight bytes that are not what they were."""

    address: int
    was: bytes
    now: bytes


class Snapshot:
    """A copy of memory, but for what may change."""

    def __init__(self, memory: GuestMemory, may_change: Region) -> None:
        self._memory = memory
        self._may_change = may_change
        self._was = memory.read(memory.base, memory.size)

    @property
    def bytes_compared(self) -> int:
        """How many bytes are compared."""
        return self._memory.size - self._may_change.size

    def changes(self) -> list[Change]:
        """Return every word that has changed."""
        base = self._memory.base
        found = []
        for chunk in range(0, len(self._was), _CHUNK):
            now = self._memory.read(base + chunk, _CHUNK)
            if now == self._was[chunk : chunk + _CHUNK]:
                continue
            for at in range(0, _CHUNK, _WORD):
                word, was = now[at : at + _WORD], self._was[chunk + at : chunk + at + _WORD]
                here = Region("word", base + chunk + at, _WORD)
                if word != was and not here.overlaps(self._may_change):
                    found.append(Change(here.base, was, word))
        return found


def dump(changes: Sequence[Change]) -> tuple[str, ...]:
    """Return a line for each word, with what it was and what it is."""
    return tuple(f"{one.address:#x}  {one.was.hex(' ')}  ->  {one.now.hex(' ')}" for one in changes)


def fields_of(structure: type[ctypes.LittleEndianStructure], at: int, changes: Sequence[Change]) -> list[str]:
    """Return which fields of a structure at ``at`` the changed bytes are, in their order; else addresses."""
    changed = [
        one.address + index for one in changes for index in range(_WORD) if one.was[index] != one.now[index]
    ]
    names = []
    for address in changed:
        name = f"{address:#x}"
        for field, *_ in structure._fields_:
            place = getattr(structure, field)
            if place.offset <= address - at < place.offset + place.size:
                name = field
        if name not in names:
            names.append(name)
    return names
