# SPDX-License-Identifier: GPL-2.0-or-later
"""kexec-tools for arm64: the program and its libraries, as an archive to append to an initramfs.

It is fetched on demand, some 4 MiB, and kept in the cache, complete or absent.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pvtime.errors import ImagesError
from pvtime.images.archive import Archive
from pvtime.images.cache import FetchProgress, silent
from pvtime.images.deb import extract
from pvtime.images.kept import Kept, kept
from pvtime.userland.cpio import CpioEntry, archive, directory, regular, symlink

__all__ = ["kexec_archive"]

RECIPE: Final = 1
"""Version of the archive's contents; raise it to have caches rebuild theirs."""

PACKAGE: Final = "kexec-tools"
PROGRAM: Final = "sbin/kexec"

LIBRARIES: Final = "lib/aarch64-linux-gnu"
"""Directory that the loader searches; the packages have theirs below / or /usr."""
LOADER: Final = "ld-linux-aarch64.so.1"

LIBRARY: Final = re.compile(r"(?:^|, )(z?lib[^ ,:|]*)")
"""A library's package among Depends. The program needs Xen's too, whose names change with each release."""


def kexec_archive(cache: Path, progress: FetchProgress = silent) -> bytes:
    """Return the archive, having fetched and built it if it is not in ``cache``.

    The program is ``/bin/kexec`` there.

    :raises ImagesError: it cannot be had.
    """
    stem = f"{PACKAGE}-{RECIPE}"
    return kept(
        cache / "kexec" / stem,
        cache / "kexec.lock",
        progress,
        lambda: Kept(stem, archive(_entries(Archive(cache, progress)))),
    ).data


def _entries(packages: Archive) -> Iterator[CpioEntry]:
    debs = packages.download(_with_libraries(packages))
    with tempfile.TemporaryDirectory(prefix="pvtime-kexec-") as unpacked:
        for deb in debs.values():
            extract(deb, Path(unpacked))
        yield from _program(Path(unpacked))
    for deb in debs.values():
        deb.unlink()


def _with_libraries(packages: Archive) -> list[str]:
    """Return the package and the library packages that it needs, directly or indirectly."""
    names = [PACKAGE]
    for package in names:  # the list grows meanwhile
        libraries = LIBRARY.findall(packages.show(package).get("Depends", ""))
        names += [name for name in dict.fromkeys(libraries) if name not in names]
    return names


def _program(root: Path) -> Iterator[CpioEntry]:
    programs = [path for path in root.rglob("kexec") if path.match(f"*/{PROGRAM}") and path.is_file()]
    if not programs:
        raise ImagesError(f"{PACKAGE}: no {PROGRAM} in this package: fetch again when Debian has fixed it")
    yield regular("bin/kexec", programs[0].read_bytes(), 0o755)
    yield directory("lib")
    yield directory(LIBRARIES)
    yield symlink(f"lib/{LOADER}", f"{Path(LIBRARIES).name}/{LOADER}")
    for path in sorted(root.rglob("*.so*")):
        if path.parent.name == Path(LIBRARIES).name:
            name = f"{LIBRARIES}/{path.name}"
            if path.is_symlink():  # to a file beside it
                yield symlink(name, path.readlink().name)
            else:
                yield regular(name, path.read_bytes(), 0o755)
