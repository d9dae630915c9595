# SPDX-License-Identifier: GPL-2.0-or-later
"""Write cpio archives in the "newc" format, the one that Linux unpacks as an initramfs.

Format: Documentation/driver-api/early-userspace/buffer-format.rst in the kernel. A header of 110 ASCII bytes,
the name with its NUL, the data; name and data each padded so that what follows is at a multiple of four.
The archive holds no time, owner or inode of this machine: the same entries give the same bytes, and a device
node needs no root. (The Python packages for this are untyped and read their entries from the disk.)
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import Final

from pvtime.records import dataclass

__all__ = ["CpioEntry", "archive", "char_device", "directory", "fifo", "regular", "symlink"]

MAGIC: Final = b"070701"
TRAILER: Final = "TRAILER!!!"
BLOCK: Final = 512
"""The archive's end is padded to this, as cpio(1) does; the next archive of a series may follow."""


@dataclass(frozen=True)
class CpioEntry:
    """One file: ``name`` without a leading slash, ``mode`` with the type bits, data or a device number."""

    name: str
    mode: int
    data: bytes = b""
    major: int = 0
    minor: int = 0


def directory(name: str, mode: int = 0o755) -> CpioEntry:
    """Describe a directory."""
    return CpioEntry(name, stat.S_IFDIR | mode)


def regular(name: str, data: bytes, mode: int = 0o644) -> CpioEntry:
    """Describe a regular file that holds ``data``."""
    return CpioEntry(name, stat.S_IFREG | mode, data)


def symlink(name: str, target: str) -> CpioEntry:
    """Describe a symbolic link; a link's target is its data."""
    return CpioEntry(name, stat.S_IFLNK | 0o777, os.fsencode(target))


def char_device(name: str, major: int, minor: int, mode: int = 0o600) -> CpioEntry:
    """Describe a character device node."""
    return CpioEntry(name, stat.S_IFCHR | mode, b"", major, minor)


def fifo(name: str, mode: int = 0o600) -> CpioEntry:
    """Describe a named pipe."""
    return CpioEntry(name, stat.S_IFIFO | mode)


def archive(entries: Iterable[CpioEntry]) -> bytes:
    """Return the archive of ``entries``, in their order: a directory must precede what is in it.

    :raises ValueError: a name is empty, absolute, holds a NUL or is the end mark; or data is 4 GiB or more.
    """
    out = bytearray()
    for inode, entry in enumerate(entries, start=1):
        _check(entry)
        _append(out, inode, entry)
    _append(out, 0, CpioEntry(TRAILER, 0))
    _pad(out, BLOCK)
    return bytes(out)


def _check(entry: CpioEntry) -> None:
    if not entry.name or entry.name.startswith("/") or "\0" in entry.name or entry.name == TRAILER:
        raise ValueError(f"not a name for a cpio entry: {entry.name!r}")
    if len(entry.data) > 0xFFFF_FFFF:
        raise ValueError(f"{entry.name}: too large for the newc format")


def _append(out: bytearray, inode: int, entry: CpioEntry) -> None:
    name = os.fsencode(entry.name) + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    uid = gid = mtime = dev_major = dev_minor = check = 0
    fields = (
        inode,
        entry.mode,
        uid,
        gid,
        links,
        mtime,
        len(entry.data),
        dev_major,
        dev_minor,
        entry.major,
        entry.minor,
        len(name),
        check,
    )
    out += MAGIC + b"".join(b"%08X" % field for field in fields) + name
    _pad(out, 4)
    out += entry.data
    _pad(out, 4)


def _pad(out: bytearray, multiple: int) -> None:
    out += bytes(-len(out) % multiple)
