# SPDX-License-Identifier: GPL-2.0-or-later
"""Atomic creation of a directory: complete or absent, whenever the process that creates it is killed.

The directory is created under a temporary name beside its place, and renamed when its content is on the disk.
Its process holds a lock (flock) on it, which the kernel releases when the process ends, however it ends: a
temporary directory without a lock was left behind by a dead process.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

__all__ = ["atomic_dir", "is_partial", "open_directory"]

_SUFFIX: Final = r"\.partial-[0-9a-f]{8}"

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def is_partial(name: str) -> bool:
    """Whether ``name`` is one of this module's temporary names."""
    return re.fullmatch(rf"\..+{_SUFFIX}", name, re.DOTALL) is not None


def open_directory(path: str, parent: int | None = None) -> int:
    """Return a descriptor of a directory.

    :raises OSError: it does not exist, or is a symbolic link or a file.
    """
    return os.open(path, _DIRECTORY, dir_fd=parent)


@contextmanager
def atomic_dir(parent: int, name: str, ours: Callable[[str], bool]) -> Iterator[int]:
    """Yield a descriptor of a new directory, and rename it to ``name`` in ``parent`` when the block ends.

    The block must fsync its files. If it raises, the directory is removed. Left-overs of dead processes for
    the same ``name`` are removed first.

    :param ours: tells from a file's name whether it may be deleted with its directory.
    :raises OSError: the host refuses, or ``name`` exists and is not empty.
    """
    _remove_leftovers(parent, name, ours)
    temporary = f".{name}.partial-{os.urandom(4).hex()}"
    try:
        with _locked(parent, temporary) as directory:
            yield directory
            os.fsync(directory)
            os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
    except BaseException:
        # By name: if an interrupt came after the rename, nothing of this name exists any more.
        _remove(parent, temporary, ours)
        raise
    os.fsync(parent)


@contextmanager
def _locked(parent: int, name: str) -> Iterator[int]:
    """Create a directory and hold its lock."""
    directory = -1
    while directory < 0:
        os.mkdir(name, 0o700, dir_fd=parent)
        directory = _lock(parent, name)
    try:
        yield directory
    finally:
        os.close(directory)


def _lock(parent: int, name: str) -> int:
    """Lock a new directory; -1 if another process took it for a left-over before that, and has removed it."""
    try:
        directory = open_directory(name, parent)
    except FileNotFoundError:
        return -1
    with suppress(OSError):  # a file system without locks: no other process gets one either
        fcntl.flock(directory, fcntl.LOCK_EX)
    if _is_same(directory, parent, name):
        return directory
    os.close(directory)
    return -1


def _is_same(directory: int, parent: int, name: str) -> bool:
    try:
        return os.path.samestat(os.fstat(directory), os.stat(name, dir_fd=parent, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _remove_leftovers(parent: int, name: str, ours: Callable[[str], bool]) -> None:
    pattern = re.compile(re.escape(f".{name}") + _SUFFIX)
    for entry in os.listdir(parent):
        if pattern.fullmatch(entry):
            with suppress(OSError):
                _remove_if_unlocked(parent, entry, ours)


def _remove_if_unlocked(parent: int, name: str, ours: Callable[[str], bool]) -> None:
    directory = open_directory(name, parent)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(directory).st_uid == os.geteuid() and all(map(ours, os.listdir(directory))):
            _remove(parent, name, ours)
    finally:
        os.close(directory)


def _remove(parent: int, name: str, ours: Callable[[str], bool]) -> None:
    """Remove a directory and the files in it that are ours; other files, and so the directory, stay."""
    with suppress(OSError):
        directory = open_directory(name, parent)
        try:
            for file in filter(ours, os.listdir(directory)):
                os.unlink(file, dir_fd=directory)
        finally:
            os.close(directory)
        os.rmdir(name, dir_fd=parent)
