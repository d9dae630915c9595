# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of a directory before anything is written there."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["free_bytes", "try_new_file"]


def free_bytes(directory: int | Path) -> int | None:
    """Return the free space of a directory's file system; None where it has no size of its own (ramfs).

    :raises OSError: the host refuses.
    """
    system = os.statvfs(directory)
    return system.f_bavail * system.f_frsize if system.f_blocks else None


def try_new_file(directory: Path) -> None:
    """Check that a directory takes new files, by making one without a name.

    access(2) says yes to root where the file system is read-only or takes no new files, as in /proc.

    :raises OSError: it does not; the reason is the host's.
    """
    import tempfile  # a run that saves nothing does not need it

    with tempfile.TemporaryFile(dir=directory):
        pass
