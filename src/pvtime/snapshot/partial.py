# SPDX-License-Identifier: GPL-2.0-or-later
"""A directory that is complete or absent, whenever its maker is killed.

It is made under a temporary name beside its place, and renamed once all in it is on the disk. Its maker holds
a lock (flock) on it, which the kernel gives back when the process ends, however it does: a temporary
directory that nobody has locked is a dead process's.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

__all__ = ["complete_or_absent", "is_partial", "open_directory"]

_SUFFIX: Final = r"\.partial-[0-9a-f]{8}"

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def is_partial(name: str) -> bool:
    """Whether a directory of this name is, or was to become, another one."""
    return re.fullmatch(rf"\..+{_SUFFIX}", name, re.DOTALL) is not None


def open_directory(path: str, parent: int | None = None) -> int:
    """Return a descriptor of a directory, which is no symbolic link.

    :raises OSError: it is not there, or something else.
    """
    return os.open(path, _DIRECTORY, dir_fd=parent)


@contextmanager
def complete_or_absent(parent: int, name: str, ours: Callable[[str], bool]) -> Iterator[int]:
    """Give a new directory to put files into, and rename it to ``name`` in ``parent`` when the block ends.

    Where the block raises it is removed. What dead processes left behind on the way to the same ``name`` is
    removed first. Files are the block's to fsync.

    :param ours: says of a file's name whether it may be deleted with its directory.
    :raises OSError: the host cannot; or ``name`` is there and not empty.
    """
    _remove_leftovers(parent, name, ours)
    temporary = f".{name}.partial-{secrets.token_hex(4)}"
    try:
        with _locked(parent, temporary) as directory:
            yield directory
            os.fsync(directory)
            os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
    except BaseException:
        # By its name: where an interrupt came after the renaming, there is nothing of that name any more.
        _remove(parent, temporary, ours)
        raise
    os.fsync(parent)


@contextmanager
def _locked(parent: int, name: str) -> Iterator[int]:
    """Make a directory and hold its lock."""
    directory = -1
    while directory < 0:
        os.mkdir(name, 0o700, dir_fd=parent)
        directory = _lock(parent, name)
    try:
        yield directory
    finally:
        os.close(directory)


def _lock(parent: int, name: str) -> int:
    """Lock a new directory; -1 where another process took it for a dead one's before, and has removed it."""
    try:
        directory = open_directory(name, parent)
    except FileNotFoundError:
        return -1
    with suppress(OSError):  # a file system without locks: nobody else gets one either
        fcntl.flock(directory, fcntl.LOCK_EX)
    if _is_at(directory, parent, name):
        return directory
    os.close(directory)
    return -1


def _is_at(directory: int, parent: int, name: str) -> bool:
    try:
        return os.path.samestat(os.fstat(directory), os.stat(name, dir_fd=parent, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _remove_leftovers(parent: int, name: str, ours: Callable[[str], bool]) -> None:
    pattern = re.compile(re.escape(f".{name}") + _SUFFIX)
    for found in os.listdir(parent):
        if pattern.fullmatch(found):
            with suppress(OSError):
                _remove_if_dead(parent, found, ours)


def _remove_if_dead(parent: int, name: str, ours: Callable[[str], bool]) -> None:
    directory = open_directory(name, parent)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(directory).st_uid == os.geteuid() and all(map(ours, os.listdir(directory))):
            _remove(parent, name, ours)
    finally:
        os.close(directory)


def _remove(parent: int, name: str, ours: Callable[[str], bool]) -> None:
    """Remove a directory and our files in it; with something else in it, it stays."""
    with suppress(OSError):
        directory = open_directory(name, parent)
        try:
            for file in filter(ours, os.listdir(directory)):
                os.unlink(file, dir_fd=directory)
        finally:
            os.close(directory)
        os.rmdir(name, dir_fd=parent)
