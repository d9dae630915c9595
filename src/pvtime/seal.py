# SPDX-License-Identifier: GPL-2.0-or-later
"""Seals of files: a file that was verified, and that nobody has written since, is sound without being read.

A seal is what the kernel says of a file: device, inode, size, and the times of its last change. Every write,
truncation and change of its metadata sets ctime, which no user can set, and a copy is another inode. So a
seal tells damage done through the file system. Errors of a disk that it does not report are left to the
checksum, which is compared wherever no seal is valid. A file that somebody else might write has none.
"""

from __future__ import annotations

import os
import stat
import time
from typing import Final, TypeAlias

__all__ = ["Seal", "await_tick", "is_private", "seal_of"]

Seal: TypeAlias = list[int]
"""Device, inode, size in bytes, mtime and ctime in ns; a list, as JSON has it."""

CLOCK_REALTIME_COARSE: Final = 5
"""The clock of the times of files, from the kernel's include/uapi/linux/time.h: it ticks every 1 to 10 ms."""


def is_private(status: os.stat_result) -> bool:
    """Whether nobody but this user can write a file."""
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def seal_of(status: os.stat_result) -> Seal | None:
    """Return a file's seal; None if somebody else might write it, or it was changed within this tick.

    Another change within a tick may leave the same times.
    """
    if not is_private(status) or status.st_ctime_ns >= time.clock_gettime_ns(CLOCK_REALTIME_COARSE):
        return None
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def await_tick() -> None:
    """Wait until what was written before has another time than what will be written."""
    began = time.time_ns()  # since Linux 6.13 a file may have the fine time
    while time.clock_gettime_ns(CLOCK_REALTIME_COARSE) <= began:
        time.sleep(0.000_5)
