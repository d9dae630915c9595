# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's refusals, with the name of the file."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pvtime.errors import SavedStateError

__all__ = ["failing"]


@contextmanager
def failing(path: Path, what: str) -> Iterator[None]:
    """Say of every OSError in the block that ``path`` ``what``, and why.

    :raises SavedStateError: there was one.
    """
    try:
        yield
    except OSError as error:
        reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise SavedStateError(f"{path} {what}: {reason}") from error
