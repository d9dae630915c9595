# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that are built from packages once and kept in the cache, each with its checksum in its name.

A checksum is compared whenever such a file is used, as that of a stock image is: a damaged file is built
again. Its bytes are returned, not its path, so that they are the ones that were compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from pvtime.images.cache import FetchProgress, atomic_file, cache_errors, exclusive

__all__ = ["Kept", "kept"]

_DIGEST_CHARACTERS: Final = 32
"""Half of a SHA-256 in hexadecimal: enough to tell damage."""

_SUFFIX: Final = ".kept"


class Kept(NamedTuple):
    """A kept file's name, without checksum and suffix, and its contents."""

    stem: str
    data: bytes


def kept(pattern: Path, lock: Path, progress: FetchProgress, build: Callable[[], Kept]) -> Kept:
    """Return the file that ``pattern`` finds, having built it if there is no sound one.

    :param pattern: the path of its stem, with * where the name is known only to ``build``.
    :param lock: held while it is built.
    :raises ImagesError: it cannot be built or kept.
    """
    with cache_errors(pattern):
        if sound := _sound(pattern):
            return sound
    with exclusive(lock, progress), cache_errors(pattern):
        if sound := _sound(pattern):  # another process has built it meanwhile
            return sound
        for damaged in _files(pattern):
            progress(f"{damaged} is damaged: building it again", 0, None)
            damaged.unlink()
        pattern.parent.mkdir(exist_ok=True)
        made = build()
        with atomic_file(pattern.with_name(f"{made.stem}.{_digest(made.data)}{_SUFFIX}")) as partial:
            partial.write_bytes(made.data)
    return made


def _sound(pattern: Path) -> Kept | None:
    for path in _files(pattern):
        data = path.read_bytes()
        stem, _, digest = path.name.removesuffix(_SUFFIX).rpartition(".")
        if _digest(data) == digest:
            return Kept(stem, data)
    return None


def _files(pattern: Path) -> list[Path]:
    return sorted(pattern.parent.glob(f"{pattern.name}.{'?' * _DIGEST_CHARACTERS}{_SUFFIX}"))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:_DIGEST_CHARACTERS]
