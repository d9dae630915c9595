# SPDX-License-Identifier: GPL-2.0-or-later
"""The stock guest images: what is there, whether it is sound, and fetch what is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from pvtime.images import manifest
from pvtime.images.progress import Progress, silent

__all__ = ["Installed", "State", "StockImages", "installed", "stock_images", "verify"]


@dataclass(frozen=True)
class StockImages:
    """The files to boot: an arm64 Linux Image as Debian ships it, and a static arm64 busybox."""

    kernel: Path
    busybox: Path


class State(Enum):
    """What has become of an image since it was fetched."""

    PRESENT = "present"
    MISSING = "missing"
    DAMAGED = "damaged"


@dataclass(frozen=True)
class Installed:
    """One stock image: its name, package and file. None and 0 where it was never fetched."""

    name: str
    package: str | None
    version: str | None
    path: Path | None
    size: int
    state: State


def stock_images(cache: Path, progress: Progress = silent, *, refresh: bool = False) -> StockImages:
    """Return the stock images of ``cache``, fetching them if one is missing or damaged.

    :param refresh: fetch the newest ones, whatever is there.
    :raises ImagesError: they cannot be had: no apt, not in the system's sources, no network, no room.
    """
    if not refresh and (images := present(cache)):
        return images
    # Only here: what fetches costs more time to import than all that a boot needs from this module.
    from pvtime.images.fetch import fetch

    return fetch(cache, progress, refresh=refresh)


def present(cache: Path) -> StockImages | None:
    """Return the stock images if all are there, judged by their sizes."""
    images = installed(cache)
    paths = {image.name: image.path for image in images if image.path and image.state is State.PRESENT}
    return StockImages(**paths) if len(paths) == len(images) else None


def installed(cache: Path) -> list[Installed]:
    """List the stock images, judged by their sizes: a truncated file is ``DAMAGED``. Nothing is fetched."""
    return _judge(cache, lambda path, image: path.stat().st_size == image.size)


def verify(cache: Path) -> list[Installed]:
    """As :func:`installed`, but judged by the SHA-256 that they had when apt had verified them."""
    return _judge(cache, lambda path, image: _sha256(path) == image.sha256)


def _judge(cache: Path, sound: Callable[[Path, manifest.Image], bool]) -> list[Installed]:
    images = manifest.read(cache)
    rows = []
    for name in manifest.STOCK:
        if image := images.get(name):
            path = manifest.folder(cache) / image.file
            state = _state(path, image, sound)
            rows.append(Installed(name, image.package, image.version, path, image.size, state))
        else:
            rows.append(Installed(name, None, None, None, 0, State.MISSING))
    return rows


def _state(path: Path, image: manifest.Image, sound: Callable[[Path, manifest.Image], bool]) -> State:
    try:
        return State.PRESENT if path.is_file() and sound(path, image) else _absent_or_damaged(path)
    except OSError:
        return State.DAMAGED


def _absent_or_damaged(path: Path) -> State:
    return State.DAMAGED if path.exists() else State.MISSING


def _sha256(path: Path) -> str:
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
