# SPDX-License-Identifier: GPL-2.0-or-later
"""Unpacking of Debian packages, without installing them.

dpkg-deb does it: python-debian's debfile is GPL-3.0-or-later, which does not go with Unicorn's GPL-2.0, and
costs 44 ms to import.
"""

from __future__ import annotations

import hashlib
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Final

from pvtime.errors import ImagesError
from pvtime.images.cache import ELSEWHERE, atomic_file, cache_errors, require_room

__all__ = ["Member", "extract", "take"]

CHUNK: Final = 1 << 20
NO_DPKG: Final = f"dpkg-deb, which unpacks guest images, is not on this machine: {ELSEWHERE}"


@dataclass(frozen=True)
class Member:
    """A file taken out of a package. ``size`` is in bytes."""

    size: int
    sha256: str


def extract(deb: Path, directory: Path) -> None:
    """Unpack all of ``deb`` into ``directory``, which need not exist.

    :raises ImagesError: the package is damaged, there is no room, or no dpkg-deb.
    """
    try:
        done = subprocess.run(["dpkg-deb", "-x", deb, directory], capture_output=True, check=False)
    except FileNotFoundError as error:
        raise ImagesError(NO_DPKG) from error
    if done.returncode:
        raise _damaged(deb, done.stderr)


def take(deb: Path, patterns: Sequence[str], path: Path) -> Member:
    """Write the first regular file of ``deb`` that matches one of ``patterns`` to ``path``, or nothing.

    The rest of the package is not read.

    :param patterns: as in ``./boot/vmlinuz-*``.
    :raises ImagesError: no such file in it, the package is damaged, there is no room, or no dpkg-deb.
    """
    with _contents(deb) as (process, stream):
        try:
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for entry in archive:
                    content = archive.extractfile(entry) if entry.isreg() else None
                    if content is not None and any(fnmatchcase(entry.name, each) for each in patterns):
                        return _copy(content, entry.size, path)
        except tarfile.TarError as error:
            raise _damaged(deb, str(error).encode()) from error
        if process.wait():
            raise _damaged(deb, b"dpkg-deb cannot read it")
    raise ImagesError(f"{deb.name}: no {' or '.join(patterns)} in this package: report this")


@contextmanager
def _contents(deb: Path) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """Yield a dpkg-deb process and the tar stream of the package's files that it writes."""
    command = ["dpkg-deb", "--fsys-tarfile", str(deb)]
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise ImagesError(NO_DPKG) from error
    assert process.stdout is not None, "it was asked for"
    with process:
        try:
            yield process, process.stdout
        finally:
            process.kill()


def _copy(content: IO[bytes], size: int, path: Path) -> Member:
    require_room(path.parent, size)
    digest = hashlib.sha256()
    with cache_errors(path), atomic_file(path) as partial, partial.open("wb") as out:
        while chunk := content.read(CHUNK):
            out.write(chunk)
            digest.update(chunk)
        if out.tell() != size:
            raise tarfile.ReadError("unexpected end of data")
    return Member(size, digest.hexdigest())


def _damaged(deb: Path, reason: bytes) -> ImagesError:
    lines = reason.decode(errors="replace").strip().splitlines() or ["it does not unpack"]
    return ImagesError(f"{deb}: a damaged package ({lines[-1]}): remove it and fetch again")
