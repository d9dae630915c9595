# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that a user asks for: written whole or not at all, and never through another user's link."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from pvtime.errors import UsageError
from pvtime.files import try_new_file

__all__ = ["refuse_unwritable", "write_whole"]


def refuse_unwritable(path: Path, what: str) -> None:
    """Check, before a guest boots, that a file can be written to ``path``; change nothing there.

    :param what: the file's contents, for the message: "the report".
    :raises UsageError: it cannot; the message has the reason.
    """
    try:
        _refuse_foreign_link(path, what)
        reason = _why_unwritable(Path(os.path.realpath(path)))
    except OSError as error:
        reason = error.strerror
    if reason is not None:
        raise UsageError(f"cannot write {what} to {path}: {reason}")


def _refuse_foreign_link(path: Path, what: str) -> None:
    """Check that ``path`` is not a symbolic link of another user's in a directory that all may write to.

    Where the kernel's protected_symlinks is off, such a link has root write over a file of the link's choice.

    :raises UsageError: it is.
    """
    if path.is_symlink():
        link, directory = path.lstat(), path.parent.stat()
        if directory.st_mode & stat.S_IWOTH and link.st_uid not in (os.geteuid(), directory.st_uid):
            raise UsageError(
                f"cannot write {what} to {path}: it is another user's symbolic link; choose another name"
            )


def _why_unwritable(path: Path) -> str | None:
    """Return the reason for which no file can be written to ``path``; None if there is none.

    :raises OSError: the file system refuses even to look, or to take a new file.
    """
    if path.is_dir():
        return "it is a directory"
    if not path.parent.is_dir():
        return f"{path.parent} is not a directory: create it first"
    if path.exists() and not os.access(path, os.W_OK):
        return "permission denied"
    if _is_plain(path):
        try_new_file(path.parent)
    return None


def write_whole(path: Path, text: str, what: str) -> None:
    """Write ``text`` to ``path``: complete, or not at all (a device or pipe is written directly).

    :param what: the file's contents, for the message: "the report".
    :raises UsageError: the file system refused.
    """
    try:
        _refuse_foreign_link(path, what)
        if _is_plain(path):
            _replace(path, text)
        else:
            path.write_text(text)
    except OSError as error:
        raise UsageError(f"cannot write {what} to {path}: {error.strerror}") from error


def _is_plain(path: Path) -> bool:
    """Whether ``path`` is, or would become, a regular file: one that may be replaced by a new one."""
    return path.is_file() or not path.exists()


def _replace(path: Path, text: str) -> None:
    """Write beside the target (a link's target stays where the link points), then rename over it."""
    path = path.resolve()
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _umask() -> int:
    """Return the process's umask; there is no way to read it but to set it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
