# SPDX-License-Identifier: GPL-2.0-or-later
"""The Debian side of the lab: Python and busybox for arm64, unpacked from their packages, as one archive."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from pvtime.errors import ImagesError
from pvtime.images.archive import Archive
from pvtime.images.deb import extract
from pvtime.lab.tree import tree_entries
from pvtime.userland.cpio import Entry, directory, symlink

__all__ = ["PACKAGES", "debian_entries", "lab_python"]

PACKAGES: Final = (
    "busybox-static",
    "libbz2-1.0",
    "libc6",
    "libexpat1",
    "libffi8",
    "libgcc-s1",  # Python aborts at a thread's exit without it
    "liblzma5",
    "libpython{python}-minimal",
    "libpython{python}-stdlib",
    "python{python}-minimal",
    "zlib1g",
)

MERGED: Final = ("bin", "lib", "sbin")
"""Directories of / that are links into /usr since Debian 12; that release's packages do not know it yet."""

DROPPED: Final = re.compile(
    r"etc/|usr/share/|usr/lib/[^/]+/gconv/|"
    r"usr/lib/python3[^/]*/(ensurepip|idlelib|lib2to3|pydoc_data|test|tkinter|turtle|sitecustomize)"
)
"""Nothing in the lab uses this, and it is more than half of the packages."""


def lab_python(archive: Archive) -> str:
    """Return the version of Debian's Python, such as ``3.11``.

    :raises ImagesError: the sources have none.
    """
    fields = archive.show("python3-minimal")
    depends = " ".join(fields.get(name, "") for name in ("Pre-Depends", "Depends"))
    match = re.search(r"python(3\.\d+)-minimal", depends)
    if match is None:
        raise ImagesError(archive.missing("python3-minimal"))
    return match[1]


def debian_entries(archive: Archive, python: str, extra: Sequence[str] = ()) -> Iterator[Entry]:
    """Yield the root directory's entries; ``extra`` names packages beside :data:`PACKAGES`.

    :raises ImagesError: a package cannot be had or unpacked.
    """
    debs = archive.download([name.format(python=python) for name in (*PACKAGES, *extra)])
    for name in ("dev", "mnt", "proc", "root", "run", "sys", "tmp", "usr/bin", "usr/lib", "usr/sbin"):
        yield directory(name)
    for name in MERGED:
        yield symlink(name, f"usr/{name}")
    yield symlink("usr/bin/sh", "busybox")
    yield symlink("usr/bin/python3", f"python{python}")
    with tempfile.TemporaryDirectory(prefix="pvtime-lab-") as unpacked:
        for deb in debs.values():
            extract(deb, Path(unpacked))
        for entry in tree_entries(Path(unpacked), "", python):
            if not DROPPED.match(entry.name):
                yield _merge(entry)
    for deb in debs.values():
        deb.unlink()


def _merge(entry: Entry) -> Entry:
    """Move an entry into /usr where that is where it really is."""
    top = entry.name.partition("/")[0]
    return replace(entry, name=f"usr/{entry.name}") if top in MERGED else entry
