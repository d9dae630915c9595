# SPDX-License-Identifier: GPL-2.0-or-later
"""Differences between a guest's memory at two moments, word by word."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

from pvtime.machine.layout import Region
from pvtime.machine.memory import GuestMemory
from pvtime.machine.pages import touched

__all__ = ["Change", "Snapshot", "dump", "fields_of"]

_CHUNK = 64 << 10
_WORD = 8


@dataclass(frozen=True)
class Change:
    """A changed word of eight bytes."""

    address: int
    before: bytes
    after: bytes


class Snapshot:
    """A copy of memory, compared with it later except in one region. What was never written is zero."""

    def __init__(self, memory: GuestMemory, may_change: Region) -> None:
        self._memory = memory
        self._may_change = may_change
        self._before = {chunk: self._read(chunk) for chunk in self._in_use()}
        """By offset; the other chunks are zero."""

    def _in_use(self) -> set[int]:
        """Return the offsets of the chunks that were written."""
        return {
            chunk
            for offset, length in touched(self._memory)
            for chunk in range(offset - offset % _CHUNK, offset + length, _CHUNK)
        }

    def _read(self, chunk: int) -> bytes:
        return self._memory.read(self._memory.base + chunk, min(_CHUNK, self._memory.size - chunk))

    def expect(self, filled: Region, word: int) -> None:
        """Compare a region with what the guest has filled it with, whatever has happened to that since.

        :param filled: begins and ends at a multiple of 64 KiB of the memory.
        """
        content = word.to_bytes(_WORD, "little") * (_CHUNK // _WORD)
        for address in range(filled.base, filled.end, _CHUNK):
            self._before[address - self._memory.base] = content

    @property
    def bytes_compared(self) -> int:
        """Number of bytes that are compared."""
        return self._memory.size - self._may_change.size

    def changes(self) -> list[Change]:
        """Return every word that has changed."""
        changes = []
        for chunk in sorted(self._before.keys() | self._in_use()):
            now = self._read(chunk)
            before = self._before.get(chunk, bytes(len(now)))
            if now == before:
                continue
            for offset in range(0, len(now), _WORD):
                new, old = now[offset : offset + _WORD], before[offset : offset + _WORD]
                if new != old:
                    here = Region("word", self._memory.base + chunk + offset, _WORD)
                    if not here.overlaps(self._may_change):
                        changes.append(Change(here.base, old, new))
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
