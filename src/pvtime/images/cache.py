# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache directory: its place, its locks, and files that are complete or absent.

Why no library does it: apt's processes must inherit the lock's descriptor, which filelock keeps private
(``_context.lock_file_fd``, seen in 4.3.1), and platformdirs is one function here. To import them takes 40 ms
and 17 ms (4.14.8), where all that a boot needs of this package takes 28.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

from pvtime.errors import ImagesError
from pvtime.files import free_bytes

__all__ = [
    "ELSEWHERE",
    "FetchProgress",
    "atomic_file",
    "cache_directory",
    "cache_errors",
    "exclusive",
    "require_room",
    "silent",
]


ELSEWHERE: Final = "fetch on another machine, and copy its cache (PVTIME_CACHE)"
"""The remedy where this machine cannot fetch."""


class FetchProgress(Protocol):
    """Receiver of a fetch's progress; called often, from the fetching thread."""

    def __call__(self, description: str, completed_bytes: int, total_bytes: int | None) -> None:
        """Show that ``completed_bytes`` of ``total_bytes`` are done; the total may be unknown (None)."""


def silent(description: str, completed_bytes: int, total_bytes: int | None) -> None:
    """Show nothing."""


def cache_directory() -> Path:
    """Return the cache's path: $PVTIME_CACHE, or pvtime in $XDG_CACHE_HOME or ~/.cache. It need not exist.

    :raises ImagesError: the user has no home directory to put it in.
    """
    if own := os.environ.get("PVTIME_CACHE"):
        return Path(own).absolute()
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):  # a relative one must be ignored (XDG Base Directory Specification)
        return Path(base, "pvtime")
    try:
        return Path.home() / ".cache" / "pvtime"
    except RuntimeError as error:
        raise ImagesError("no home directory for the image cache: set PVTIME_CACHE to a directory") from error


@contextmanager
def cache_errors(path: Path) -> Iterator[None]:
    """Turn an OSError inside the block into one line that names the file, or ``path`` where it names none.

    :raises ImagesError: instead of the OSError.
    """
    try:
        yield
    except OSError as error:
        where = error.filename if isinstance(error.filename, str) else path
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "make room there, or set PVTIME_CACHE to another directory"
        else:
            advice = "set PVTIME_CACHE to a directory that you can write to"
        raise ImagesError(f"{where}: cannot keep guest images here: {error.strerror}: {advice}") from error


@contextmanager
def exclusive(lock: Path, progress: FetchProgress) -> Iterator[int]:
    """Hold the lock file, waiting for another holder to release it; yield its descriptor.

    A child process that inherits the descriptor holds the lock too, for as long as it lives.

    :raises ImagesError: the file or its directory cannot be made.
    """
    with cache_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        # Never by a link: one in a cache that others can write may be another user's.
        if lock.is_symlink():
            raise ImagesError(f"{lock}: it is a symbolic link: remove it")
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(lock, flags, 0o666)
    try:
        with cache_errors(lock):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress("waiting for another pvtime that is fetching", 0, None)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def require_room(directory: Path, needed: int) -> None:
    """Check that ``directory``'s file system has ``needed`` bytes free.

    :raises ImagesError: it has not.
    """
    with cache_errors(directory):
        free = free_bytes(directory)
    if free is not None and free < needed:
        raise ImagesError(
            f"{directory}: no room for the guest images: {_mib(needed)} MiB needed, {_mib(free)} MiB free: "
            "make room there, or set PVTIME_CACHE to another directory"
        )


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f}"


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield the path of a file to write, renamed to ``path`` once it is on the disk; on failure, removed."""
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        _sync(partial)
        partial.rename(path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
