# SPDX-License-Identifier: GPL-2.0-or-later
"""machine.json: description and state of a saved machine, and the size and digest of each of the other files.

The first line holds the SHA-256 of everything after that line, as a member of the JSON object that the file
is. The first line, ``format`` and ``version`` keep their meaning in every later version.
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Final

from pvtime import __version__
from pvtime.errors import SavedStateError
from pvtime.machine.layout import IPA_END
from pvtime.records import dataclass
from pvtime.schema import matching, within
from pvtime.snapshot.codec import JsonObject, decode, encode, from_json, to_json
from pvtime.snapshot.description import MAX_IMAGE, Description
from pvtime.snapshot.state import MAX_STATE, SavedState

__all__ = [
    "INITRD",
    "KERNEL",
    "MANIFEST",
    "MAX_MANIFEST",
    "SEALS",
    "VERSION",
    "FileEntry",
    "Manifest",
    "is_memory",
    "is_saved_file",
    "memory_name",
]

FORMAT: Final = "pvtime saved machine"
VERSION: Final = 6
"""1 had the description as ``engine`` and ``config``; 4 had no frequency of the counter, and no ``lpt``;
5 had no GICv3."""
ARCHITECTURE: Final = "arm64"

MANIFEST: Final = "machine.json"
KERNEL: Final = "kernel"
INITRD: Final = "initrd"
SEALS: Final = "seals.json"
"""Seals of all the other files (:mod:`pvtime.seal`); it may be missing, and is no part of the format."""

MAX_MANIFEST: Final = MAX_STATE + (1 << 20)
"""Bytes."""


def memory_name(base: int) -> str:
    """Return the name of the file with the memory region at IPA ``base``."""
    return f"memory-{base:x}"


def is_memory(name: str) -> bool:
    """Whether a file of this name holds a memory region."""
    return re.fullmatch("memory-[0-9a-f]{1,16}", name) is not None


def is_saved_file(name: str) -> bool:
    """Whether a saved machine has files of this name."""
    return name in (MANIFEST, KERNEL, INITRD, SEALS) or is_memory(name)


@dataclass(frozen=True)
class FileEntry:
    """A file beside the manifest."""

    size: Annotated[int, within(0, IPA_END)]
    """Bytes."""
    sha256: Annotated[str, matching("[0-9a-f]{64}", "a SHA-256 in hexadecimal")]
    """Digest of the file's bytes; of a memory region, that of :mod:`pvtime.snapshot.memory_file`."""


@dataclass(frozen=True)
class Manifest:
    """The content of machine.json."""

    format: str
    version: int
    pvtime: str
    """Version of pvtime that wrote it."""
    architecture: str
    description: Description
    """The machine's; the images' bytes are in files of their own."""
    state: SavedState
    files: dict[str, FileEntry]

    @classmethod
    def of(cls, description: Description, state: SavedState, files: dict[str, FileEntry]) -> Manifest:
        """Return the manifest of a machine that this version of pvtime saves."""
        return cls(FORMAT, VERSION, __version__, ARCHITECTURE, description.without_images(), state, files)

    def to_bytes(self) -> bytes:
        """Return the file's bytes."""
        rest = to_json(encode(self)).removeprefix("{\n").encode("ascii") + b"\n"
        return _first_line(rest) + rest

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> Manifest:
        """Decode and check the file's bytes.

        :param name: the file's name, for messages.
        :raises SavedStateError: it is damaged, foreign, of another version, or of another architecture.
        """
        head, newline, rest = data.partition(b"\n")
        if head + newline != _first_line(rest):
            raise SavedStateError(f"{name} is damaged, or not pvtime's: its checksum is wrong")
        document = from_json(data, name)
        del document["sha256"]
        return cls.decode(document, name)

    @classmethod
    def decode(cls, document: JsonObject, name: str) -> Manifest:
        """Decode and check the file's document, without the first line's checksum.

        :raises SavedStateError: see :meth:`from_bytes`.
        """
        if document.get("format") != FORMAT:
            raise SavedStateError(f"{name} does not belong to a saved machine of pvtime")
        if document.get("version") != VERSION:
            raise SavedStateError(
                f"{name} has format version {_shown(document.get('version'))} and this pvtime reads version "
                f"{VERSION}: restore it with pvtime {_shown(document.get('pvtime'))}, which saved it"
            )
        manifest = decode(cls, document, name)
        if manifest.architecture != ARCHITECTURE:
            raise SavedStateError(
                f"{name} is for the architecture {_shown(manifest.architecture)}, not {ARCHITECTURE}"
            )
        manifest.description.check(name)
        manifest._check_files(name)
        return manifest

    def _check_files(self, name: str) -> None:
        for file, entry in self.files.items():
            memory = is_memory(file)
            if not memory and file not in (KERNEL, INITRD):
                raise SavedStateError(f"{name}.files: no saved machine has a file {file[:40]!r}")
            if not memory and entry.size > MAX_IMAGE:
                raise SavedStateError(f"{name}.files[{file!r}].size: {entry.size} bytes are too many")
        for file in (KERNEL, INITRD):
            if file not in self.files:
                raise SavedStateError(f"{name}.files: has no {file}")


def _shown(value: object) -> str:
    """Return an untrusted value for a message: short, and printable."""
    return repr(str(value)[:20])


def _first_line(rest: bytes) -> bytes:
    return b'{"sha256": "%s",\n' % hashlib.sha256(rest).hexdigest().encode("ascii")
