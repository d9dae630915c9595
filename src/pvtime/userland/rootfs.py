# SPDX-License-Identifier: GPL-2.0-or-later
"""A user's root file system for the stock guest, from a directory or a tar: a second part of the initramfs.

It is unpacked into ``/rootfs``, where the agent's commands run. All files are root's; device nodes and
sockets are left out, since the guest has its own.
"""

from __future__ import annotations

import lzma
import os
import posixpath
import stat
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pvtime.errors import UsageError, oserror_context
from pvtime.userland import cpio

__all__ = ["ROOTFS", "rootfs_archive"]

ROOTFS: Final = "rootfs"
"""Directory of the guest that has it."""

MAX_SIZE: Final = 4 << 30
"""Bytes of all files: no guest of an initramfs has the memory for more."""

BITS: Final = 0o7777


def rootfs_archive(path: Path) -> bytes:
    """Return a cpio archive of a directory, or of a tar, which may be compressed.

    :raises UsageError: it cannot be read, is neither, or is larger than any guest.
    """
    with oserror_context(str(path), UsageError):
        mode = path.stat().st_mode
        if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
            raise UsageError(f"{path} is neither a directory nor a whole tar: it is not a regular file")
        entries = _of_directory(path) if stat.S_ISDIR(mode) else _of_tar(path)
        return cpio.archive(_limited(entries, path))


def _limited(entries: Iterator[cpio.CpioEntry], path: Path) -> Iterator[cpio.CpioEntry]:
    """Pass entries on, the root first.

    :raises UsageError: they are too many bytes.
    """
    yield cpio.directory(ROOTFS)
    size = 0
    for entry in entries:
        size += len(entry.data)
        _check_size(size, path)
        yield entry


def _check_size(size: int, path: Path) -> None:
    """Check the bytes of files, of one also before it is read: it may be sparse, or a bomb.

    :raises UsageError: they are too many.
    """
    if size > MAX_SIZE:
        raise UsageError(f"{path} is larger than {MAX_SIZE >> 30} GiB: it must fit into the guest's memory")


def _of_directory(root: Path) -> Iterator[cpio.CpioEntry]:
    for folder, folders, files in os.walk(root, onerror=_raise):
        folders.sort()
        for name in sorted([*folders, *files]):
            path = os.path.join(folder, name)
            inside = f"{ROOTFS}/{os.path.relpath(path, root)}"
            status = os.lstat(path)
            mode = status.st_mode & BITS
            if stat.S_ISLNK(status.st_mode):
                yield cpio.symlink(inside, os.readlink(path))
            elif stat.S_ISDIR(status.st_mode):
                yield cpio.directory(inside, mode)
            elif stat.S_ISREG(status.st_mode):
                _check_size(status.st_size, root)
                yield cpio.regular(inside, Path(path).read_bytes(), mode)
            elif stat.S_ISFIFO(status.st_mode):
                yield cpio.fifo(inside, mode)


def _raise(error: OSError) -> None:
    raise error


def _of_tar(path: Path) -> Iterator[cpio.CpioEntry]:
    """Yield a tar's entries; of several with one name the kernel takes the last."""
    known: set[str] = {ROOTFS}
    try:
        with tarfile.open(path, errors="surrogateescape") as tar:
            for member in tar:
                inside = _inside(member.name, path)
                if inside == ROOTFS:
                    continue
                yield from _missing_parents(inside, known)
                known.add(inside)
                if (entry := _entry(tar, member, inside, path)) is not None:
                    yield entry
    except (tarfile.TarError, EOFError, ValueError, lzma.LZMAError, zlib.error) as error:
        raise UsageError(f"{path} is neither a directory nor a whole tar: make it again") from error


def _entry(tar: tarfile.TarFile, member: tarfile.TarInfo, inside: str, path: Path) -> cpio.CpioEntry | None:
    mode = member.mode & BITS
    if member.issym():
        return cpio.symlink(inside, member.linkname)
    if member.isdir():
        return cpio.directory(inside, mode)
    if member.isfifo():
        return cpio.fifo(inside, mode)
    if not (member.isreg() or member.islnk()):
        return None
    _check_size(member.size, path)
    try:
        file = tar.extractfile(member)  # of a hard link: its target's
    except (KeyError, RecursionError) as error:  # symbolic links may lead to each other
        raise UsageError(f"{path}: {member.name} is a link to a file that is not in the tar") from error
    if file is None:
        return None
    return cpio.regular(inside, file.read(), mode)


def _inside(name: str, path: Path) -> str:
    """Return the path in the guest of a tar's entry.

    :raises UsageError: it is outside of the root.
    """
    inside = posixpath.normpath(posixpath.join(ROOTFS, name.lstrip("/")))
    if inside != ROOTFS and not inside.startswith(f"{ROOTFS}/"):
        raise UsageError(f"{path} has a file outside of its root: {name}")
    return inside


def _missing_parents(inside: str, known: set[str]) -> Iterator[cpio.CpioEntry]:
    parts = inside.split("/")
    for depth in range(1, len(parts)):
        parent = "/".join(parts[:depth])
        if parent not in known:
            known.add(parent)
            yield cpio.directory(parent)
