# SPDX-License-Identifier: GPL-2.0-or-later
"""machine.json: what a saved machine is, and the size and digest of every other file of it.

Its first line holds the SHA-256 of all that follows that line, as one member of the JSON object that the
whole is. That, ``format`` and ``version`` stay as they are in every later version.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from pvtime import __version__
from pvtime.errors import SavedStateError
from pvtime.machine.codec import JsonObject, decode, encode, from_json, to_json

__all__ = [
    "INITRD",
    "KERNEL",
    "MANIFEST",
    "MAX_IMAGE",
    "MAX_MANIFEST",
    "FileEntry",
    "Manifest",
    "is_memory",
    "is_ours",
    "memory_name",
]

FORMAT: Final = "pvtime saved machine"
VERSION: Final = 1
ARCHITECTURE: Final = "arm64"

MANIFEST: Final = "machine.json"
KERNEL: Final = "kernel"
INITRD: Final = "initrd"

MAX_MANIFEST: Final = 16 << 20
"""Bytes; that of a machine with eight vCPUs has less than one MiB."""

MAX_IMAGE: Final = 1 << 30
"""Bytes of a kernel or an initrd."""


def memory_name(base: int) -> str:
    """Return the name of the file of the memory at IPA ``base``."""
    return f"memory-{base:x}"


def is_memory(name: str) -> bool:
    """Whether a file of this name is a memory's."""
    return re.fullmatch("memory-[0-9a-f]{1,16}", name) is not None


def is_ours(name: str) -> bool:
    """Whether the format has files of this name."""
    return name in (MANIFEST, KERNEL, INITRD) or is_memory(name)


@dataclass(frozen=True)
class FileEntry:
    """A file beside the manifest."""

    size: int
    """Bytes."""
    sha256: str
    """Of its bytes; of a memory's, of its extents."""


@dataclass(frozen=True)
class Manifest:
    """The content of machine.json."""

    format: str
    version: int
    pvtime: str
    """The version of pvtime that wrote it."""
    architecture: str
    engine: str
    config: JsonObject
    state: JsonObject
    files: dict[str, FileEntry]

    @classmethod
    def of(cls, engine: str, config: JsonObject, state: JsonObject, files: dict[str, FileEntry]) -> Manifest:
        """Return the manifest of a machine that is saved here and now."""
        return cls(FORMAT, VERSION, __version__, ARCHITECTURE, engine, config, state, files)

    def to_bytes(self) -> bytes:
        """Return the file's bytes."""
        rest = to_json(encode(self)).removeprefix("{\n").encode("ascii") + b"\n"
        return _first_line(rest) + rest

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> Manifest:
        """Return what the file says.

        :param name: the file's, for the message.
        :raises SavedStateError: it is damaged, foreign, newer, or of another architecture.
        """
        head, newline, rest = data.partition(b"\n")
        if head + newline != _first_line(rest):
            raise SavedStateError(f"{name} is damaged, or not pvtime's: its checksum is wrong")
        document = from_json(data, name)
        del document["sha256"]
        if document.get("format") != FORMAT:
            raise SavedStateError(f"{name} is of no saved machine of pvtime")
        if document.get("version") != VERSION:
            raise SavedStateError(
                f"{name} has format version {str(document.get('version'))[:20]!r}, made by pvtime "
                f"{str(document.get('pvtime'))[:20]!r}: this is pvtime {__version__}, which reads {VERSION}"
            )
        manifest = decode(cls, document, name)
        if manifest.architecture != ARCHITECTURE:
            raise SavedStateError(
                f"{name} is of a machine of architecture {manifest.architecture[:20]!r}, not {ARCHITECTURE}"
            )
        manifest._check_files(name)
        return manifest

    def _check_files(self, name: str) -> None:
        for file, entry in self.files.items():
            memory = is_memory(file)
            if not memory and file not in (KERNEL, INITRD):
                raise SavedStateError(f"{name} names a file that no saved machine has: {file[:40]!r}")
            if entry.size < 0 or (not memory and entry.size > MAX_IMAGE):
                raise SavedStateError(f"{name} gives {file} the size {entry.size}")
        for file in (KERNEL, INITRD):
            if file not in self.files:
                raise SavedStateError(f"{name} does not name the {file}")


def _first_line(rest: bytes) -> bytes:
    return b'{"sha256": "%s",\n' % hashlib.sha256(rest).hexdigest().encode("ascii")
