# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading a saved machine from the disk: every file is input, and nothing of it is used unverified."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from pvtime.errors import SavedStateError
from pvtime.machine.memory import GuestMemory
from pvtime.snapshot.contents import SavedMachine
from pvtime.snapshot.failing import failing
from pvtime.snapshot.manifest import (
    INITRD,
    KERNEL,
    MANIFEST,
    MAX_MANIFEST,
    Manifest,
    is_memory,
    memory_name,
)
from pvtime.snapshot.memory_file import read_memory
from pvtime.snapshot.partial import is_partial, open_directory

__all__ = ["SavedDirectory", "load"]

# A FIFO in a file's place would else keep us waiting for its writer.
_OLD: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def load(path: Path) -> SavedDirectory:
    """Open a saved machine; all but its memory is read and verified.

    :raises SavedStateError: it is damaged, truncated, foreign, newer, or of another architecture; the message
        names the file.
    """
    if path.is_symlink():
        raise SavedStateError(f"{path} is a symbolic link: give the directory itself")
    if is_partial(os.path.basename(os.path.realpath(path))):
        raise SavedStateError(f"{path} is what an interrupted save left behind: it is no saved machine")
    with failing(path, "is no saved machine"):
        directory = open_directory(str(path))
    try:
        if MANIFEST not in os.listdir(directory):
            raise SavedStateError(f"{path} is no saved machine: it has no {MANIFEST}")
        return SavedDirectory(path, directory)
    except BaseException:
        os.close(directory)
        raise


class SavedDirectory:
    """A saved machine that is being restored; close it, or use it in a ``with``.

    What it gives is verified. Nothing of a machine may run before :meth:`fill` has returned.
    """

    def __init__(self, path: Path, directory: int) -> None:
        self._path = path
        self._directory = directory
        with self._open(MANIFEST) as file:
            self._manifest = Manifest.from_bytes(self._read(file, MAX_MANIFEST), str(path / MANIFEST))
        for name in self._manifest.files:
            with self._sized(name):
                pass
        manifest = self._manifest
        self.machine = SavedMachine(
            manifest.engine, manifest.config, manifest.state, self._image(KERNEL), self._image(INITRD)
        )

    def fill(self, memories: Sequence[GuestMemory]) -> None:
        """Read all memory, and verify what was read. The regions are zero, and are so again after an error.

        :raises SavedStateError: a file is damaged, or the machine has other memory than was saved.
        """
        saved = {name: entry.size for name, entry in self._manifest.files.items() if is_memory(name)}
        if saved != {memory_name(one.base): one.size for one in memories}:
            regions = ", ".join(f"{name} of {size} bytes" for name, size in saved.items()) or "none"
            raise SavedStateError(f"{self._path} is of a machine with other memory: {regions}")
        try:
            for memory in memories:
                name = memory_name(memory.base)
                with self._sized(name) as file:
                    self._verify(name, read_memory(file, memory))
        except BaseException:
            for memory in memories:
                memory.clear()
            raise

    def close(self) -> None:
        """Give the directory back; harmless when repeated."""
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _image(self, name: str) -> bytes:
        with self._sized(name) as file:
            data = self._read(file, self._manifest.files[name].size)
        self._verify(name, hashlib.sha256(data).hexdigest())
        return data

    def _verify(self, name: str, digest: str) -> None:
        if digest != self._manifest.files[name].sha256:
            raise SavedStateError(f"{self._path / name} is damaged: its checksum is wrong")

    @staticmethod
    def _read(file: int, limit: int) -> bytes:
        """Return a file's bytes, one more than ``limit`` of them at most."""
        with open(file, "rb", closefd=False) as stream:
            return stream.read(limit + 1)

    @contextmanager
    def _sized(self, name: str) -> Iterator[int]:
        """Open a file that has the size that the manifest says."""
        with self._open(name) as file:
            size, expected = os.fstat(file).st_size, self._manifest.files[name].size
            if size != expected:
                what = "truncated" if size < expected else "damaged"
                raise SavedStateError(f"{self._path / name} is {what}: it has {size} bytes, not {expected}")
            yield file

    @contextmanager
    def _open(self, name: str) -> Iterator[int]:
        path = self._path / name
        with failing(path, "cannot be read"):
            file = os.open(name, _OLD, dir_fd=self._directory)
            try:
                if not stat.S_ISREG(os.fstat(file).st_mode):
                    raise SavedStateError(f"{path} is not a regular file")
                yield file
            finally:
                os.close(file)
