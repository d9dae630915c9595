# SPDX-License-Identifier: GPL-2.0-or-later
"""A 32-bit program for the stock guest: Debian's static busybox of armhf, fetched with apt into the cache."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

from pvtime.images.archive import Archive
from pvtime.images.cache import silent
from pvtime.images.deb import take
from pvtime.images.kept import Kept, kept
from pvtime.userland import cpio

__all__ = ["BUSYBOX_32", "armhf_files"]

BUSYBOX_32: Final = "/bin/busybox32"
"""The program in the guest."""

_PACKAGE: Final = "busybox-static"
_ELF32_LITTLE: Final = b"\x7fELF\x01\x01"


def armhf_files(cache: Path) -> bytes:
    """Return an archive with the program, to append to an initramfs.

    :raises ImagesError: it cannot be had.
    """
    program = kept(cache / "armhf" / _PACKAGE, cache / "armhf.lock", silent, partial(_fetch, cache)).data
    assert program.startswith(_ELF32_LITTLE), "it is no 32-bit program"
    return cpio.archive([cpio.regular(BUSYBOX_32.removeprefix("/"), program, 0o755)])


def _fetch(cache: Path) -> Kept:
    path = cache / "armhf" / "partial"
    deb = Archive(cache, architecture="armhf").download([_PACKAGE])[_PACKAGE]
    take(deb, ["*/bin/busybox"], path)
    deb.unlink()
    program = path.read_bytes()
    path.unlink()
    return Kept(_PACKAGE, program)
