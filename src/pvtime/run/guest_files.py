# SPDX-License-Identifier: GPL-2.0-or-later
"""The user's files in the stock guest (``--rootfs``, ``--share``): in its initramfs, or on disks of it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from pvtime.errors import UsageError, oserror_context
from pvtime.records import dataclass
from pvtime.run.options import GuestOptions

if TYPE_CHECKING:
    from pvtime.machine.virtio.block import Disk
    from pvtime.run.share import Share

__all__ = ["UNPACK_ROOM", "GuestFiles", "guest_files"]

UNPACK_ROOM: Final = 96 << 20
"""Bytes of the guest's memory for all but the user's files, which are there twice while they are unpacked."""

MAX_IN_MEMORY: Final = 64 << 20
"""Bytes of a root file system that is unpacked into the guest's memory; a larger one is on a disk."""

MAX_FILES_IN_MEMORY: Final = 4000
"""Number of files of one."""

ROOT_WORD: Final = "pvtime.root"
SHARE_WORD: Final = "pvtime.share"
"""Words of the command line for the stock userland: it has a disk of this kind."""

SHARE_BLOCK: Final = 64 << 10
"""Unit of that word's number: how much of the disk has the tar."""

ROOT_SERIAL: Final = "root"
SHARE_SERIAL: Final = "share"


@dataclass(frozen=True)
class GuestFiles:
    """What the machine is given for the user's files."""

    archive: bytes = b""
    """Cpio archive to append to the initramfs."""
    disks: tuple[Disk, ...] = ()
    words: tuple[str, ...] = ()
    """Words for the kernel's command line."""
    share: Share | None = None

    def close(self) -> None:
        """Close the disks."""
        for disk in self.disks:
            disk.close()


def guest_files(guest: GuestOptions) -> GuestFiles:
    """Return the user's files in a guest.

    :raises UsageError: they cannot be read, or do not fit.
    """
    if guest.rootfs is None and guest.share is None:  # nor are the modules imported for it
        return GuestFiles()
    from pvtime.machine.virtio.block import Disk

    with contextlib.ExitStack() as undo:
        archive, disks, words, share = b"", [], [], None
        if guest.rootfs is not None:
            archive, disk = _rootfs(guest, guest.rootfs)
            if disk is not None:
                undo.callback(disk.close)
                disks.append(disk)
                words.append(ROOT_WORD)
        if guest.share is not None:
            from pvtime.run.share import Share

            file = _unnamed_file()
            undo.callback(file.close)
            share = Share(guest.share, file, guest.share_size)
            _check_fits(guest, guest.share, share.filled)
            disks.append(Disk(file, SHARE_SERIAL, writable=True))
            words.append(f"{SHARE_WORD}={-(-share.filled // SHARE_BLOCK)}")
        undo.pop_all()
    return GuestFiles(archive, tuple(disks), tuple(words), share)


def _rootfs(guest: GuestOptions, path: Path) -> tuple[bytes, Disk | None]:
    """Return a root file system as an archive, or, where it is large, as a disk.

    A kernel of the user's has it in memory, whatever its size: it need not have the drivers.

    :raises UsageError: it cannot be read, or fits nowhere.
    """
    from pvtime.machine.virtio.block import Disk
    from pvtime.userland.rootfs import (
        RootfsTooLargeError,
        make_squashfs,
        maker_missing,
        rootfs_archive,
    )

    if guest.kernel is None:
        with contextlib.suppress(RootfsTooLargeError):
            archive = rootfs_archive(path, MAX_IN_MEMORY, MAX_FILES_IN_MEMORY)
            _check_fits(guest, path, len(archive))
            return archive, None
    missing = "a kernel of your own has it there" if guest.kernel is not None else maker_missing()
    if missing is not None:
        archive = rootfs_archive(path)
        _check_fits(guest, path, len(archive), f" ({missing})")
        return archive, None
    file = _unnamed_file()
    try:
        make_squashfs(path, file.fileno())
        return b"", Disk(file, ROOT_SERIAL)
    except BaseException:
        file.close()
        raise


def _check_fits(guest: GuestOptions, path: Path, size: int, reason: str = "") -> None:
    """Check that files can be unpacked in the guest.

    :raises UsageError: its memory is too small.
    """
    needed = 2 * size + UNPACK_ROOM
    if needed > guest.memory:
        raise UsageError(
            f"{path} is unpacked into the guest's memory{reason}, which is too small for that: give --memory "
            f"{(needed >> 20) + 1}M"
        )


def _unnamed_file() -> IO[bytes]:
    """Return a file in the cache that goes with its descriptor, however this process ends.

    :raises UsageError: the host has no place for it.
    """
    import tempfile

    from pvtime.images.cache import cache_directory

    cache = cache_directory()
    with oserror_context(f"{cache}: a disk for the guest cannot be kept here", UsageError):
        cache.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=cache, buffering=0)
