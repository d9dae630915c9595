# SPDX-License-Identifier: GPL-2.0-or-later
"""The user's directory of control sockets: one for each machine, by its name.

It is ``pvtime`` in ``$XDG_RUNTIME_DIR``, else ``pvtime-UID`` in the directory for temporary files, which
others may write to: so it must be a directory of this user's that nobody else can enter. Its flock(2) is held
while a socket is made or removed: between bind(2) and listen(2) a socket looks like one whose process was
killed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pvtime.errors import UsageError, oserror_context
from pvtime.snapshot.address import MAX_PATH, OwnSocket, remove_stale

__all__ = ["check_name", "listen_as", "named_sockets", "runtime_directory", "socket_of", "sweep"]

SUFFIX: Final = ".sock"

LOCK_TIMEOUT_S: Final = 5.0
"""Seconds for others that start a machine, or sweep, at the same time."""
LOCK_RETRY_S: Final = 0.02

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")


def check_name(text: str) -> str:
    """Return ``text``, a possible name of a machine.

    :raises UsageError: it is none.
    """
    if not _NAME.fullmatch(text):
        raise UsageError(
            f"{text!r} is not a name: give 1 to 32 letters, digits, dots, dashes and underscores, "
            "the first a letter or digit"
        )
    return text


def runtime_directory(*, create: bool = False) -> Path | None:
    """Return the directory, absolute; None where it does not exist and ``create`` is false.

    :raises UsageError: it is not this user's alone, or the host refuses to make it.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime):
        path = Path(runtime, "pvtime")
    else:
        import tempfile

        path = Path(tempfile.gettempdir(), f"pvtime-{os.getuid()}").absolute()
    with oserror_context(f"{path}, the directory of control sockets", UsageError):
        if create:
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
        try:
            status = path.lstat()
        except FileNotFoundError:
            if create:
                raise
            return None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise UsageError(
            f"{path} must be a directory of yours with mode 0700, since it holds control sockets: remove it, "
            "or set XDG_RUNTIME_DIR"
        )
    return path


def listen_as(name: str, *, patience_s: float = LOCK_TIMEOUT_S) -> OwnSocket:
    """Return the control socket of a machine of this name; clients are served once the machine runs.

    :param patience_s: seconds for others that start a machine at the same time.
    :raises UsageError: it is not a name, a machine of this name runs, or the host refuses.
    """
    directory = runtime_directory(create=True)
    assert directory is not None, "it was created"
    path = directory / f"{check_name(name)}{SUFFIX}"
    with oserror_context(f"control socket {path}", UsageError), _locked(path.parent, patience_s):
        try:
            return OwnSocket(str(path))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EEXIST):
                raise UsageError(
                    f"a machine named {name} runs already: choose another --name; pvtime ps lists them"
                ) from error
            if error.errno is None:
                raise UsageError(
                    f"{path}: the name is too long for a socket, which may have {MAX_PATH} bytes: choose a "
                    "shorter --name or XDG_RUNTIME_DIR"
                ) from error
            raise


def named_sockets() -> list[tuple[str, Path]]:
    """Return names and control sockets, sorted; some may be of processes that were killed.

    :raises UsageError: the directory is not this user's alone.
    """
    directory = runtime_directory()
    if directory is None:
        return []
    with oserror_context(f"{directory}", UsageError):
        paths = [path for path in sorted(directory.glob(f"*{SUFFIX}")) if path.is_socket()]
    names = [(path.name.removesuffix(SUFFIX), path) for path in paths]
    return [(name, path) for name, path in names if _NAME.fullmatch(name)]


def sweep(path: Path) -> None:
    """Remove a control socket of the directory if nothing listens on it: its process was killed."""
    with contextlib.suppress(OSError), _locked(path.parent):
        remove_stale(str(path))


def socket_of(machine: str) -> Path:
    """Return the control socket of a machine: that of its name, or one whose path was given.

    A text with a slash is a path; another one is a name, or else a socket in the current directory.

    :raises UsageError: there is no such machine.
    """
    if "/" in machine:
        return Path(machine)
    if _NAME.fullmatch(machine) and (directory := runtime_directory()) is not None:
        path = directory / f"{machine}{SUFFIX}"
        if path.is_socket():
            return path
    if os.path.lexists(machine):
        return Path(machine)
    raise UsageError(f"there is no machine named {machine!r}: pvtime ps lists those that run")


@contextlib.contextmanager
def _locked(directory: Path, patience_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
    """Hold the directory's lock for the block.

    :raises OSError: somebody else holds it, and does not go on.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        give_up_at = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up_at:
                    raise
                time.sleep(LOCK_RETRY_S)
        yield
    finally:
        os.close(fd)
