# SPDX-License-Identifier: GPL-2.0-or-later
"""The stock guest images: their state in the cache, and fetching what is missing or damaged.

The SHA-256 is compared at the first use of the images, and whenever somebody has written to them since
(:mod:`pvtime.seal`): a kernel with a flipped bit costs more. It takes 25 ms of a boot of 1.2 s (27 MB kernel
and 2 MB busybox, x86_64 with SHA extensions; 4 ms of it is the import of hashlib), and 2.2 s of a CPU of the
lab on a busy machine, where the CPU is emulated.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TypeAlias

from pvtime.errors import ImagesError
from pvtime.images import manifest
from pvtime.images.cache import FetchProgress, atomic_file, exclusive, silent
from pvtime.records import dataclass
from pvtime.seal import Seal, is_private, seal_of

__all__ = ["ImageState", "InstalledImage", "StockImages", "installed", "stock_images", "verify"]

_Seals: TypeAlias = dict[str, list[str | Seal]]


@dataclass(frozen=True)
class StockImages:
    """The files to boot: an arm64 Linux Image as Debian ships it, and a static arm64 busybox."""

    kernel: Path
    busybox: Path


class ImageState(Enum):
    """An image's state since it was fetched."""

    PRESENT = "present"
    MISSING = "missing"
    DAMAGED = "damaged"


@dataclass(frozen=True)
class InstalledImage:
    """A stock image: its name, package and file. None and 0 where it was never fetched."""

    name: str
    package: str | None
    version: str | None
    path: Path | None
    size: int
    state: ImageState


def stock_images(cache: Path, progress: FetchProgress = silent, *, refresh: bool = False) -> StockImages:
    """Return the stock images of ``cache``, fetching them if one is missing or damaged.

    :param refresh: fetch the newest ones, even if the cache has sound ones.
    :raises ImagesError: they cannot be had: no apt, not in the system's sources, no network, no room.
    """
    if not refresh and (images := _sound(cache)):
        return images
    with exclusive(cache / "images.lock", progress):
        if not refresh:
            if images := _sound(cache):  # another process has fetched them meanwhile
                return images
            for image in verify(cache):
                if image.state is ImageState.DAMAGED:
                    progress(f"{image.path} is damaged: fetching it again", 0, None)
        # Only here: importing it takes longer than everything that a boot needs from this module.
        from pvtime.images.fetch import fetch

        fetch(cache, progress)
        if images := _sound(cache):
            return images
    raise ImagesError(f"{manifest.folder(cache)}: the guest images vanished during the fetch: try again")


def _sound(cache: Path) -> StockImages | None:
    """Return the stock images if every one has its checksum, or had it and was not written since."""
    seals = _read_seals(cache)
    verified: _Seals = {}

    def sound(path: Path, image: manifest.Image) -> bool:
        seal = seal_of(path.stat())
        if seal is not None and seals.get(image.file) == [image.sha256, seal]:
            return True
        if _sha256(path) != image.sha256:
            return False
        if seal is not None:
            verified[image.file] = [image.sha256, seal]
        return True

    images = _judge(cache, sound)
    if verified:
        with contextlib.suppress(OSError), atomic_file(_seals_file(cache)) as partial:
            partial.write_text(json.dumps(seals | verified))
    paths = {image.name: image.path for image in images if image.path and image.state is ImageState.PRESENT}
    return StockImages(**paths) if len(paths) == len(images) else None


def _seals_file(cache: Path) -> Path:
    return manifest.folder(cache) / "seals.json"


def _read_seals(cache: Path) -> _Seals:
    """Return the checksum that each image has had, and its seal then; none where they cannot be trusted."""
    try:
        with _seals_file(cache).open("rb") as file:
            seals = json.load(file) if is_private(os.fstat(file.fileno())) else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return seals if isinstance(seals, dict) else {}


def installed(cache: Path) -> list[InstalledImage]:
    """List the stock images, judged by their sizes: a truncated file is ``DAMAGED``. Nothing is fetched."""
    return _judge(cache, lambda path, image: path.stat().st_size == image.size)


def verify(cache: Path) -> list[InstalledImage]:
    """List the stock images, judged by the SHA-256 that was computed from the package apt had verified."""
    return _judge(cache, lambda path, image: _sha256(path) == image.sha256)


def _judge(cache: Path, sound: Callable[[Path, manifest.Image], bool]) -> list[InstalledImage]:
    images = manifest.read(cache)
    rows = []
    for name in manifest.STOCK:
        if image := images.get(name):
            path = manifest.folder(cache) / image.file
            state = _state(path, image, sound)
            rows.append(InstalledImage(name, image.package, image.version, path, image.size, state))
        else:
            rows.append(InstalledImage(name, None, None, None, 0, ImageState.MISSING))
    return rows


def _state(path: Path, image: manifest.Image, sound: Callable[[Path, manifest.Image], bool]) -> ImageState:
    try:
        if path.is_file() and sound(path, image):
            return ImageState.PRESENT
    except OSError:
        return ImageState.DAMAGED
    return ImageState.DAMAGED if path.exists() else ImageState.MISSING


def _sha256(path: Path) -> str:
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
