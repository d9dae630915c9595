# SPDX-License-Identifier: GPL-2.0-or-later
"""A user's root file system for the stock guest, from a directory or a tar.

It is the root of the agent's commands, ``/rootfs``: unpacked into the guest's memory, as a second part of the
initramfs, or a squashfs on a read-only disk, under a tmpfs that takes what changes. All files are root's;
device nodes and sockets are left out, since the guest has its own.
"""

from __future__ import annotations

import contextlib
import io
import lzma
import os
import posixpath
import shutil
import stat
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Final

from pvtime.errors import UsageError, oserror_context
from pvtime.userland import cpio

__all__ = ["MAKER", "ROOTFS", "RootfsTooLargeError", "make_squashfs", "maker_missing", "rootfs_archive"]

ROOTFS: Final = "rootfs"
"""Directory of the guest that has it."""

MAX_SIZE: Final = 4 << 30
"""Bytes of all files in memory: no guest of an initramfs has the memory for more."""

MAX_DISK: Final = 64 << 30
"""Bytes of all files on a disk."""

MAKER: Final = "sqfstar"
"""The program that makes a squashfs of a tar (squashfs-tools 4.5 and later)."""

_UNCOMPRESSED: Final = ("-noI", "-noD", "-noF", "-noX")
"""The guest's CPU is emulated, or is what is measured: it does not unpack anything."""

BITS: Final = 0o7777


class RootfsTooLargeError(UsageError):
    """A root file system has more bytes or files than it may have where it was to be."""


@dataclass(frozen=True)
class _RootEntry:
    """A file of the root."""

    head: cpio.CpioEntry
    """All but the data of a regular file; its name begins with :data:`ROOTFS`."""
    size: int = 0
    open: Callable[[], IO[bytes]] | None = None
    """Opens a regular file."""


def rootfs_archive(path: Path, max_size: int = MAX_SIZE, max_files: int | None = None) -> bytes:
    """Return a cpio archive of a directory, or of a tar, which may be compressed.

    :param max_size: bytes of all files.
    :param max_files: number of files; None: any.
    :raises RootfsTooLargeError: it has more.
    :raises UsageError: it cannot be read, or is neither.
    """

    def whole(entry: _RootEntry) -> cpio.CpioEntry:
        if entry.open is None:
            return entry.head
        with entry.open() as file:
            return replace(entry.head, data=file.read(entry.size))

    def entries() -> Iterator[cpio.CpioEntry]:
        yield cpio.directory(ROOTFS)
        for count, entry in enumerate(_entries(path, max_size), 1):
            if max_files is not None and count > max_files:
                raise RootfsTooLargeError(f"{path} has more than {max_files} files")
            yield whole(entry)

    with _reading(path):
        return cpio.archive(entries())


def maker_missing() -> str | None:
    """Return the reason for which there can be no disk, and what to do about it; None: there can."""
    if shutil.which(MAKER) is None:
        return f"{MAKER}, which makes a disk of it, is not installed (Debian: apt install squashfs-tools)"
    return None


def make_squashfs(path: Path, fd: int) -> None:
    """Write a squashfs of a directory, or of a tar, which may be compressed, to the regular file ``fd``.

    :raises UsageError: it cannot be read, is neither, or is too large; or :data:`MAKER` fails.
    """
    command = [MAKER, "-force", "-no-progress", "-quiet", "-all-root", *_UNCOMPRESSED, f"/proc/self/fd/{fd}"]
    with _reading(path):
        try:
            maker = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(fd,),
            )
        except FileNotFoundError:
            raise UsageError(f"{path}: {maker_missing()}") from None
        with maker:
            assert maker.stdin is not None, "it was asked for"
            assert maker.stderr is not None, "it was asked for"
            try:
                _write_tar(maker.stdin, _entries(path, MAX_DISK))
                maker.stdin.close()
            except BrokenPipeError:
                pass  # its own error is below
            except BaseException:
                maker.kill()
                raise
            reason = maker.stderr.read().decode(errors="replace").strip().splitlines()
        if maker.returncode:
            raise UsageError(f"{path}: {MAKER} failed: {reason[-1] if reason else maker.returncode}")


def _write_tar(stream: IO[bytes], entries: Iterator[_RootEntry]) -> None:
    """Write a tar; of several files with one name the last one counts, as in an initramfs."""
    kinds = {stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFLNK: tarfile.SYMTYPE, stat.S_IFIFO: tarfile.FIFOTYPE}
    buffered = io.BufferedWriter(stream, 1 << 20)
    for entry in entries:
        member = tarfile.TarInfo(posixpath.relpath(entry.head.name, ROOTFS))
        member.mode, member.size = entry.head.mode & BITS, entry.size
        member.type = kinds.get(stat.S_IFMT(entry.head.mode), tarfile.REGTYPE)
        if member.issym():
            member.linkname = os.fsdecode(entry.head.data)
        buffered.write(member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))
        if entry.open is not None:
            with entry.open() as file:
                _copy(file, buffered, entry)
            buffered.write(bytes(-entry.size % tarfile.BLOCKSIZE))
    buffered.write(bytes(2 * tarfile.BLOCKSIZE))
    buffered.flush()
    buffered.detach()


def _copy(file: IO[bytes], out: IO[bytes], entry: _RootEntry) -> None:
    left = entry.size
    while left:
        data = file.read(min(left, 1 << 20))
        if not data:
            raise UsageError(f"{entry.head.name}: it became shorter while it was read: try again")
        out.write(data)
        left -= len(data)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Name the file where it cannot be read.

    :raises UsageError: instead of the reader's own errors.
    """
    try:
        with oserror_context(str(path), UsageError):
            yield
    except (tarfile.TarError, EOFError, ValueError, lzma.LZMAError, zlib.error) as error:
        raise UsageError(f"{path} is neither a directory nor a whole tar: make it again") from error


def _entries(path: Path, max_size: int) -> Iterator[_RootEntry]:
    """Yield the files of a directory or a tar, but not the root itself.

    :raises RootfsTooLargeError: they are too many bytes: known before a file is read, which may be sparse,
        or a bomb.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise UsageError(f"{path} is neither a directory nor a whole tar: it is not a regular file")
    size = 0
    for entry in _of_directory(path) if stat.S_ISDIR(mode) else _of_tar(path):
        size += entry.size
        if size > max_size:
            remedy = "it must fit into the guest's memory" if max_size == MAX_SIZE else "give a smaller one"
            raise RootfsTooLargeError(f"{path} is larger than {max_size >> 30} GiB: {remedy}")
        yield entry


def _of_directory(root: Path) -> Iterator[_RootEntry]:
    for folder, folders, files in os.walk(root, onerror=_raise):
        folders.sort()
        for name in sorted([*folders, *files]):
            path = os.path.join(folder, name)
            inside = f"{ROOTFS}/{os.path.relpath(path, root)}"
            status = os.lstat(path)
            mode = status.st_mode & BITS
            if stat.S_ISLNK(status.st_mode):
                yield _RootEntry(cpio.symlink(inside, os.readlink(path)))
            elif stat.S_ISDIR(status.st_mode):
                yield _RootEntry(cpio.directory(inside, mode))
            elif stat.S_ISREG(status.st_mode):
                yield _RootEntry(cpio.regular(inside, b"", mode), status.st_size, _opener(path))
            elif stat.S_ISFIFO(status.st_mode):
                yield _RootEntry(cpio.fifo(inside, mode))


def _opener(path: str) -> Callable[[], IO[bytes]]:
    return lambda: open(path, "rb")


def _raise(error: OSError) -> None:
    raise error


def _of_tar(path: Path) -> Iterator[_RootEntry]:
    """Yield a tar's entries; of several with one name the kernel takes the last."""
    known: set[str] = {ROOTFS}
    with tarfile.open(path, errors="surrogateescape") as tar:
        for member in tar:
            inside = _inside(member.name, path)
            if inside == ROOTFS:
                continue
            for parent in _missing_parents(inside, known):
                yield _RootEntry(parent)
            known.add(inside)
            if (entry := _entry(tar, member, inside, path)) is not None:
                yield entry


def _entry(tar: tarfile.TarFile, member: tarfile.TarInfo, inside: str, path: Path) -> _RootEntry | None:
    mode = member.mode & BITS
    if member.issym():
        return _RootEntry(cpio.symlink(inside, member.linkname))
    if member.isdir():
        return _RootEntry(cpio.directory(inside, mode))
    if member.isfifo():
        return _RootEntry(cpio.fifo(inside, mode))
    if not (member.isreg() or member.islnk()):
        return None
    try:
        file = tar.extractfile(member)  # of a hard link: its target's
    except (KeyError, RecursionError) as error:  # symbolic links may lead to each other
        raise UsageError(f"{path}: {member.name} is a link to a file that is not in the tar") from error
    if file is None:
        return None
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    return _RootEntry(cpio.regular(inside, b"", mode), size, lambda: file)


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
