# SPDX-License-Identifier: GPL-2.0-or-later
"""The errors that pvtime raises on purpose.

The message is one line for a person: it names the thing and says what to do. The command line prints it
on standard error and exits with :attr:`PvtimeError.exit_code`.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = [
    "MORE_MEMORY",
    "REINSTALL",
    "EngineError",
    "GuestCommandError",
    "GuestEndedError",
    "GuestImageError",
    "GuestMemoryError",
    "ImagesError",
    "MigrationError",
    "PvTimeDeviceError",
    "PvtimeError",
    "SavedStateError",
    "UsageError",
    "host_reason",
    "json_reason",
    "one_line",
    "oserror_context",
]


MORE_MEMORY = "end other programs, or raise the limit (ulimit -v)"
REINSTALL = "install pvtime again, or raise the limits of memory and open files (ulimit -v, ulimit -n)"
ADVICE = {
    errno.EMFILE: ": raise the limit of open files (ulimit -n)",
    errno.ENOMEM: f": {MORE_MEMORY}",
    errno.ENOSPC: ": make room there",
}


class PvtimeError(Exception):
    """Base class; never raised itself."""

    exit_code = 1


class UsageError(PvtimeError):
    """An impossible request of the user: a bad option, or options that exclude each other."""

    exit_code = 2


class GuestImageError(UsageError):
    """A kernel or initrd that cannot boot here: missing, truncated, of another architecture, too large."""


class GuestMemoryError(PvtimeError):
    """An access outside a guest memory region, or a misaligned one where one store must do it."""


class ImagesError(UsageError):
    """The stock guest images cannot be had: no apt, no room in the cache, a broken download."""


class SavedStateError(UsageError):
    """A saved machine cannot be written, or cannot be used: damaged, truncated, foreign, or newer."""


class MigrationError(PvtimeError):
    """A machine could not be moved: the peer has gone, refuses, or broke the protocol."""


class EngineError(PvtimeError):
    """The engine cannot run the guest, or failed while running it."""


class GuestEndedError(EngineError):
    """The guest has ended, and cannot be asked any more; the message says how."""


class GuestCommandError(PvtimeError):
    """A command in the guest failed, or the guest did not do in time what was waited for."""


class PvTimeDeviceError(EngineError):
    """An attribute of the PV-time device cannot be read or set."""


def one_line(message: str) -> str:
    """Return a message as one line without control characters: a part of it may be a peer's."""
    return "".join(char if char.isprintable() else "?" for char in " ".join(message.split()))


def host_reason(error: OSError) -> str:
    """Return the reason for which the host refused something, and what to do about a lack."""
    return (error.strerror or str(error)) + ADVICE.get(error.errno or 0, "")


def json_reason(error: ValueError | RecursionError) -> str:
    """Return the reason for which :func:`json.loads` refused a text, in words for people."""
    import json

    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return f"look at line {error.lineno}, column {error.colno}"
    return "a number in it is too long"


@contextmanager
def oserror_context(subject: str, error_type: type[PvtimeError]) -> Iterator[None]:
    """Raise an OSError of the block as ``error_type``: ``subject``, a colon, and the host's reason.

    An open with O_NOFOLLOW fails with ELOOP ("Too many levels of symbolic links") at a single link.
    """
    try:
        yield
    except OSError as error:
        reason = "it is a symbolic link" if error.errno == errno.ELOOP else host_reason(error)
        raise error_type(f"{subject}: {reason}") from error
