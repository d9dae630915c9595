# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's own file systems, mounted where nobody else sees them.

They are mounted detached (fsopen(2), fsmount(2), Linux 5.2): they have no place among the host's directories,
and are gone when their file is closed, however this process ends.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import Final

__all__ = ["debugfs", "mount_detached"]

_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
"""The same numbers on every architecture."""
_CLOEXEC: Final = 1
_CMD_CREATE: Final = 6
_NOSUID_NODEV_NOEXEC: Final = 0x2 | 0x4 | 0x8


def mount_detached(kind: str) -> int:
    """Mount a file system of a kind such as ``tracefs``; return its root's descriptor.

    :raises OSError: this kernel has none, or this user may not mount.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    context = libc.syscall(_FSOPEN, kind.encode(), _CLOEXEC)
    if context < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    try:
        mount = -1
        if libc.syscall(_FSCONFIG, context, _CMD_CREATE, None, None, 0) == 0:
            mount = libc.syscall(_FSMOUNT, context, _CLOEXEC, _NOSUID_NODEV_NOEXEC)
        if mount < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return int(mount)
    finally:
        os.close(context)


@cache
def debugfs() -> Path:
    """Return debugfs: one of this process's own where it may, else its usual place."""
    try:
        return Path(f"/proc/self/fd/{mount_detached('debugfs')}")
    except OSError:
        return Path("/sys/kernel/debug")
