# SPDX-License-Identifier: GPL-2.0-or-later
"""A directory that host and guest share (``--share``): its files go in and come out as a tar, on a disk.

The guest is hostile: it may write anything to the disk. All of the tar is checked before a file is written;
then each file is written beside its place, below directories that are opened one by one without following a
link, and renamed. Links, devices, pipes and sockets of the guest's stay there, and nothing is deleted here.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from pvtime.abi.virtio import SECTOR
from pvtime.errors import GuestCommandError, UsageError, oserror_context

__all__ = ["MAX_FILES", "Share"]

MAX_FILES: Final = 20_000
"""Files that a directory may have: to check one takes 50 us, and the guest chooses their number."""

MAX_NAME: Final = 4096
"""Bytes of a path."""

COPY: Final = 1 << 20

_MODE: Final = 0o777
"""Permissions that a file has in the guest and here: none of the bits that lend its owner's rights."""

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Share:
    """The directory ``path``, whose files are now in ``file``, which becomes a disk of ``size`` bytes.

    :param max_files: number of files, each way.
    :raises UsageError: it cannot be read, or has more than the disk can have.
    """

    def __init__(self, path: Path, file: IO[bytes], size: int, max_files: int = MAX_FILES) -> None:
        self._max_files = max_files
        self.path = path
        self._file = file
        self.lock = threading.Lock()
        """Held from the request to the guest until :meth:`collect` has returned."""
        self._before: dict[str, tuple[int, str]] = {}
        """Mode and SHA-256 of each file, as the guest had it last."""
        self._links: set[str] = set()
        self._size = size // SECTOR * SECTOR
        with oserror_context(str(path), UsageError):
            self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._fill()
            finally:
                os.close(self._root)
        self.filled = file.tell()
        """Bytes of the files, with the heads of the tar."""
        with oserror_context(str(path), UsageError):
            os.ftruncate(file.fileno(), self._size)

    def _fill(self) -> None:
        """Write the directory's files to the disk."""
        with tarfile.open(fileobj=self._file, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for count, (name, folder) in enumerate(_walk(self._root)):
                if count >= self._max_files:
                    raise UsageError(f"{self.path} has more than {self._max_files} files: share fewer")
                self._add(tar, name, folder)
        self._check_room()

    def _check_room(self, more: int = 0) -> None:
        if self._file.tell() + more > self._size:
            raise UsageError(
                f"{self.path} is larger than --share-size, {self._size >> 20}M: give a larger one, or share "
                "less"
            )

    def _add(self, tar: tarfile.TarFile, name: str, folder: int) -> None:
        last = name.rpartition("/")[2]
        status = os.stat(last, dir_fd=folder, follow_symlinks=False)
        member = tarfile.TarInfo(name)
        member.mode, member.mtime = status.st_mode & _MODE, int(status.st_mtime)
        if stat.S_ISDIR(status.st_mode):
            member.type = tarfile.DIRTYPE
            tar.addfile(member)
        elif stat.S_ISLNK(status.st_mode):
            member.type, member.linkname = tarfile.SYMTYPE, os.readlink(last, dir_fd=folder)
            self._links.add(name)
            tar.addfile(member)
        elif stat.S_ISREG(status.st_mode):
            with open(os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder), "rb") as file:
                member.size = os.fstat(file.fileno()).st_size
                self._check_room(member.size)
                tar.addfile(member, file)
                file.seek(0)
                self._before[name] = (member.mode, hashlib.file_digest(file, "sha256").hexdigest())

    def collect(self) -> list[str]:
        """Write what the guest has changed or made, from the disk; return notes for the user.

        The guest has written the disk, and does not write it meanwhile.

        :raises GuestCommandError: the disk has no tar, or one with impossible names, or a file cannot be
            written; the message names it.
        """
        with oserror_context(str(self.path), GuestCommandError):
            root = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                return self._collect(root)
            finally:
                os.close(root)

    def _collect(self, root: int) -> list[str]:
        left_out = 0
        with self._reading() as tar:
            members = self._checked(tar)
            for name, member in members.items():
                if member.isdir():
                    with self._writing(name):
                        os.close(_open_folder(root, name))
                elif member.isreg():
                    self._update(root, tar, name, member)
                elif not (member.issym() and name in self._links):
                    left_out += 1
        if not left_out:
            return []
        files = "1 file" if left_out == 1 else f"{left_out} files"
        return [f"{files} of the guest's /share stayed there: links and others that are no plain files"]

    @contextlib.contextmanager
    def _reading(self) -> Iterator[tarfile.TarFile]:
        """Open the tar on the disk.

        :raises GuestCommandError: there is none that is whole.
        """
        try:
            self._file.seek(0)
            with tarfile.open(fileobj=self._file, mode="r:", errors="surrogateescape") as tar:
                yield tar
        except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
            raise self._refused("is no whole tar") from error

    def _refused(self, reason: str) -> GuestCommandError:
        return GuestCommandError(f"{self.path} stays as it is: what the guest gave for it {reason}")

    def _checked(self, tar: tarfile.TarFile) -> dict[str, tarfile.TarInfo]:
        """Return the members by their paths, the last of each.

        :raises GuestCommandError: there are too many, or one has an impossible name or size.
        """
        members: dict[str, tarfile.TarInfo] = {}
        for count, member in enumerate(tar):
            if count > self._max_files:  # the root is one of them
                raise self._refused(f"has more than {self._max_files} files")
            name = member.name.removeprefix("./")
            if name in ("", "."):
                continue
            if not _is_path(name):
                raise self._refused(f"has a file with an impossible name: {name[:60]!r}")
            if member.isreg() and (member.issparse() or member.offset_data + member.size > self._size):
                raise self._refused(f"has a file of an impossible size: {name[:60]!r}")
            members[name] = member
        return members

    def _update(self, root: int, tar: tarfile.TarFile, name: str, member: tarfile.TarInfo) -> None:
        """Write a file if the guest has changed it."""
        mode = member.mode & _MODE
        content = tar.extractfile(member)
        assert content is not None, "it is a regular file"
        is_now = (mode, hashlib.file_digest(content, "sha256").hexdigest())  # type: ignore[arg-type]
        if self._before.get(name) == is_now:
            return
        content.seek(0)
        folder, _, last = name.rpartition("/")
        with self._writing(name):
            directory = _open_folder(root, folder)
            try:
                _replace(directory, last, mode, content)
            finally:
                os.close(directory)
        self._before[name] = is_now

    @contextlib.contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        """Name the file that cannot be written: a directory where the guest has a file, or a link."""
        shown = "".join(char if char.isprintable() else "?" for char in name)
        with oserror_context(f"{self.path}/{shown} cannot be written", GuestCommandError):
            yield


def _walk(root: int) -> Iterator[tuple[str, int]]:
    """Yield the path of each file below ``root``, directories first, and the descriptor of its directory."""
    for folder, folders, files, descriptor in os.fwalk(dir_fd=root, onerror=_raise):
        folders.sort()
        for name in sorted([*folders, *files]):
            yield os.path.normpath(f"{folder}/{name}"), descriptor


def _raise(error: OSError) -> None:
    raise error


def _is_path(name: str) -> bool:
    """Whether a name leads down from the root, by names that are possible."""
    parts = name.split("/")
    return (
        len(os.fsencode(name)) <= MAX_NAME
        and "\0" not in name
        and all(part not in ("", ".", "..") and len(os.fsencode(part)) <= 255 for part in parts)
    )


def _open_folder(root: int, path: str) -> int:
    """Open a directory below ``root``, without following a link; make those that are missing."""
    descriptor = os.dup(root)
    try:
        for part in filter(None, path.split("/")):
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, dir_fd=descriptor)
            below = os.open(part, _FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _replace(directory: int, name: str, mode: int, content: IO[bytes]) -> None:
    """Write a file in the place of another, whole or not at all."""
    partial = f".pvtime-{secrets.token_hex(8)}"
    try:
        with open(os.open(partial, _NEW, 0o600, dir_fd=directory), "wb") as file:
            while data := content.read(COPY):
                file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.rename(partial, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial, dir_fd=directory)
        raise
