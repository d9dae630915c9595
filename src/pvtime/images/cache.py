# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache directory: where it is, that one process at a time changes it, and that a file in it is whole."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pvtime.errors import ImagesError
from pvtime.images.progress import Progress

__all__ = ["cache_directory", "exclusive", "explained", "require_room", "whole_file"]


def cache_directory() -> Path:
    """Return where the cache is: $PVTIME_CACHE, or pvtime in $XDG_CACHE_HOME or ~/.cache. It need not exist.

    :raises ImagesError: the user has no home directory to put it in.
    """
    if own := os.environ.get("PVTIME_CACHE"):
        return Path(own).absolute()
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):  # the XDG specification has a relative one ignored
        return Path(base, "pvtime")
    try:
        return Path.home() / ".cache" / "pvtime"
    except RuntimeError as error:
        raise ImagesError("no home directory for the image cache: set PVTIME_CACHE to a directory") from error


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an OSError of what is done to ``path`` into one line.

    :raises ImagesError: instead of the OSError.
    """
    try:
        yield
    except OSError as error:
        where = error.filename if isinstance(error.filename, str) else path
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "make room there, or set PVTIME_CACHE to another directory"
        else:
            advice = "set PVTIME_CACHE to a directory that can be written to"
        raise ImagesError(f"{where}: cannot keep guest images here: {error.strerror}: {advice}") from error


@contextmanager
def exclusive(lock: Path, progress: Progress) -> Iterator[int]:
    """Hold the lock file, waiting for whoever holds it; yield its descriptor.

    A child that inherits the descriptor holds the lock too, for as long as it lives.

    :raises ImagesError: the file or its directory cannot be made.
    """
    with explained(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        with explained(lock):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress("waiting for another pvtime that is fetching", 0, None)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def require_room(directory: Path, needed: int) -> None:
    """Check that ``needed`` bytes are free where ``directory`` is.

    :raises ImagesError: they are not.
    """
    with explained(directory):
        stat = os.statvfs(directory)
    free = stat.f_bavail * stat.f_frsize
    if free < needed:
        raise ImagesError(
            f"{directory}: no room for the guest images: {_mib(needed)} MiB needed, {_mib(free)} MiB free: "
            "make room there, or set PVTIME_CACHE to another directory"
        )


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f}"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield the name of a file to write, which becomes ``path`` once it is on the disk; or leave nothing."""
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
