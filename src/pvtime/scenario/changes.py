# SPDX-License-Identifier: GPL-2.0-or-later
"""Differences between a guest's memory at two moments, word by word."""

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
    """A changed word of eight bytes."""

    address: int
    before: bytes
    after: bytes


class Snapshot:
    """A copy of memory, compared with it later except in one region."""

    def __init__(self, memory: GuestMemory, may_change: Region) -> None:
        self._memory = memory
        self._may_change = may_change
        self._before = bytearray(memory.read(memory.base, memory.size))

    def expect(self, filled: Region, word: int) -> None:
        """Compare a region with what the guest has filled it with, whatever has happened to that since."""
        offset = filled.base - self._memory.base
        self._before[offset : offset + filled.size] = word.to_bytes(_WORD, "little") * (filled.size // _WORD)

    @property
    def bytes_compared(self) -> int:
        """Number of bytes that are compared."""
        return self._memory.size - self._may_change.size

    def changes(self) -> list[Change]:
        """Return every word that has changed."""
        base = self._memory.base
        changes = []
        for chunk in range(0, len(self._before), _CHUNK):
            length = min(_CHUNK, len(self._before) - chunk)
            now = self._memory.read(base + chunk, length)
            if now == self._before[chunk : chunk + length]:
                continue
            for offset in range(0, length, _WORD):
                word = now[offset : offset + _WORD]
                before = bytes(self._before[chunk + offset : chunk + offset + _WORD])
                here = Region("word", base + chunk + offset, _WORD)
                if word != before and not here.overlaps(self._may_change):
                    changes.append(Change(here.base, before, word))
        return changes


def dump(changes: Sequence[Change]) -> tuple[str, ...]:
    """Return a line for each word, with its old and its new bytes."""
    return tuple(
        f"{change.address:#x}  {change.before.hex(' ')}  ->  {change.after.hex(' ')}" for change in changes
    )


def fields_of(
    structure: type[ctypes.LittleEndianStructure], address: int, changes: Sequence[Change]
) -> list[str]:
    """Return the names of the changed fields of a structure, in order; for other bytes their addresses."""
    changed = [
        change.address + index
        for change in changes
        for index in range(_WORD)
        if change.before[index] != change.after[index]
    ]
    names = []
    for byte in changed:
        name = f"{byte:#x}"
        for field, *_ in structure._fields_:
            place = getattr(structure, field)
            if place.offset <= byte - address < place.offset + place.size:
                name = field
        if name not in names:
            names.append(name)
    return names
