# SPDX-License-Identifier: GPL-2.0-or-later
"""Standard streams that are closed, take nothing, or have lost their reader.

A command that cannot print its result must not end with exit code 0: a script would go on without it.
"""

from __future__ import annotations

import errno
import os
import sys

from pvtime.errors import host_reason

TYPE_CHECKING = False  # typing and re, which it imports, are a tenth of what ``pvtime --version`` takes
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

__all__ = ["OUTPUT_ERRORS", "discard", "lost_outputs", "open_closed", "output_reason"]

OUTPUT_ERRORS = (errno.EBADF, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC)
"""Errors of an output. Who writes a file names it in the error: one without a name is a standard stream's."""


def open_closed() -> None:
    """Open /dev/null for each standard stream that was closed when the process started.

    Else the next file that is opened would become that stream, for this process and for its children. An
    output is opened for reading, so that whatever is written there fails (as gnulib's stdopen has it).

    :raises OSError: /dev/null cannot be opened.
    """
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        _replace(os.open(os.devnull, os.O_RDONLY), fd)
        stream: TextIO
        if name == "stdin":
            stream = open(fd, closefd=False)  # noqa: SIM115 (it stays open like the others)
        else:
            line_buffering = 1 if name == "stderr" else -1
            stream = open(fd, "w", line_buffering, errors="backslashreplace", closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)


def lost_outputs() -> Iterator[tuple[str, TextIO, OSError]]:
    """Yield each standard output that does not take what was printed: its name, itself and the error."""
    for name, stream in (("standard output", sys.stdout), ("standard error", sys.stderr)):
        try:
            stream.flush()
        except OSError as error:
            yield name, stream, error


def output_reason(error: OSError) -> str:
    """Return the reason for which a standard output took nothing, and what to do."""
    if error.errno == errno.EBADF:
        return "it is closed: send it to a file or to /dev/null"
    return host_reason(error)


def discard(fd: int) -> None:
    """Send the rest of an output to /dev/null: the interpreter flushes at its end, and would fail or wait."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
    except OSError:  # the process may open no more files
        os.close(fd)
        null = os.open(os.devnull, os.O_WRONLY)
    _replace(null, fd)


def _replace(new: int, fd: int) -> None:
    """Have ``fd`` be what ``new`` is, for children too, and close ``new``."""
    if new == fd:
        os.set_inheritable(fd, True)
    else:
        os.dup2(new, fd)
        os.close(new)
