# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that a user asks for: written whole or not at all, and never through another user's link."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from pvtime.errors import UsageError, oserror_context
from pvtime.files import try_new_file

__all__ = ["NewFile", "open_stream", "refuse_unwritable", "write_whole"]


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


def write_whole(path: Path, content: str | bytes, what: str) -> None:
    """Write a file: complete, or not at all (a device or pipe is written directly).

    :param what: the file's contents, for the message: "the report".
    :raises UsageError: the file system refused.
    """
    file = NewFile(path, what)
    try:
        file.write(content.encode() if isinstance(content, str) else content)
        file.finish()
    finally:
        file.discard()


def open_stream(path: Path, what: str) -> int:
    """Return the descriptor of a file, or pipe, that is written bit by bit, and empty it.

    :raises UsageError: it is another user's symbolic link.
    :raises OSError: the file system refused.
    """
    _refuse_foreign_link(path, what)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)


class NewFile:
    """A file that comes in parts, and has its name when it is whole; a device or pipe is written directly.

    :raises UsageError: the file system refused; so do the methods.
    """

    def __init__(self, path: Path, what: str) -> None:
        self._subject = f"cannot write {what} to {path}"
        self._temporary: str | None = None
        with oserror_context(self._subject, UsageError):
            _refuse_foreign_link(path, what)
            self._path = path
            if _is_plain(path):
                # A link's target stays where the link points. The name cannot be foreseen by another user.
                self._path = path.resolve()
                import tempfile

                handle, self._temporary = tempfile.mkstemp(
                    dir=self._path.parent, prefix=f".{path.name[:200]}."
                )
                self._file = os.fdopen(handle, "wb")
            else:
                self._file = path.open("wb")

    def write(self, data: bytes) -> None:
        """Add data."""
        with oserror_context(self._subject, UsageError):
            self._file.write(data)

    def finish(self) -> None:
        """Put the file in its place, with the permissions of the one that was there."""
        with oserror_context(self._subject, UsageError):
            self._file.flush()
            if self._temporary is not None:
                os.fsync(self._file.fileno())
                old = self._path.stat().st_mode & 0o777 if self._path.exists() else 0o666 & ~_umask()
                os.chmod(self._temporary, old)
                os.replace(self._temporary, self._path)
                self._temporary = None
            self._file.close()

    def discard(self) -> None:
        """Leave nothing of a file that is not whole. Harmless after :meth:`finish`."""
        with contextlib.suppress(OSError):
            self._file.close()
        if self._temporary is not None:
            os.unlink(self._temporary)
            self._temporary = None


def _is_plain(path: Path) -> bool:
    """Whether ``path`` is, or would become, a regular file: one that may be replaced by a new one."""
    return path.is_file() or not path.exists()


def _umask() -> int:
    """Return the process's umask; there is no way to read it but to set it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
