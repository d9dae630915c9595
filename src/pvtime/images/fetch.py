# SPDX-License-Identifier: GPL-2.0-or-later
"""Fetch the stock guest images: what :mod:`pvtime.images.store` does when they are not there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from pvtime.errors import ImagesError
from pvtime.images import manifest, store
from pvtime.images.archive import Archive
from pvtime.images.cache import exclusive, explained
from pvtime.images.deb import take
from pvtime.images.progress import Progress

__all__ = ["fetch"]

KERNEL: Final = "linux-image-cloud-arm64"
"""Depends on the newest kernel that has drivers for virtual hardware only."""

BUSYBOX: Final = "busybox-static"

MEMBERS: Final[Mapping[str, str]] = {"kernel": "./boot/vmlinuz-*", "busybox": "*/bin/busybox"}


def fetch(cache: Path, progress: Progress, *, refresh: bool) -> store.StockImages:
    """Download the stock images and put them into ``cache``, unless another process has done so by now.

    :param refresh: replace what is there.
    :raises ImagesError: they cannot be had.
    """
    with exclusive(cache / "images.lock", progress):
        if not refresh and (images := store.present(cache)):
            return images
        archive = Archive(cache, progress)
        packages = {"kernel": _kernel_package(archive), "busybox": BUSYBOX}
        debs = archive.download(list(packages.values()))
        folder = manifest.folder(cache)
        with explained(folder):
            folder.mkdir(exist_ok=True)
            fetched = {
                name: _unpack(name, package, debs[package], folder, progress)
                for name, package in packages.items()
            }
            manifest.write(cache, fetched)
            _tidy(folder, {image.file for image in fetched.values()}, debs.values())
    if images := store.present(cache):
        return images
    raise ImagesError(f"{folder}: the guest images vanished while they were being fetched: try again")


def _kernel_package(archive: Archive) -> str:
    """Return the name of the package with the newest kernel: an unsigned one where there is one.

    The unsigned package is built with the kernel, the signed one some time after it; the code is the same.
    """
    depends = archive.show(KERNEL).get("Depends", "")
    match = re.search(r"linux-image-[\w.+-]+-cloud-arm64", depends)
    if match is None:
        raise ImagesError(archive.missing(KERNEL))
    unsigned = f"{match[0]}-unsigned"
    return unsigned if archive.show(unsigned) else match[0]


def _unpack(name: str, package: str, deb: Path, folder: Path, progress: Progress) -> manifest.Image:
    progress(f"unpacking {package}", 0, None)
    member = take(deb, MEMBERS[name], folder)
    # NAME_VERSION_ARCHITECTURE.deb, where apt writes the colon of an epoch as %3a
    version = deb.name.split("_")[1].replace("%3a", ":")
    return manifest.Image(member.name, package, version, member.size, member.sha256)


def _tidy(folder: Path, kept: set[str], debs: Iterable[Path]) -> None:
    """Remove what the images came from, and the images before them."""
    for path in folder.iterdir():
        if path.name not in kept | {"manifest.json"}:
            path.unlink()
    for deb in debs:
        deb.unlink()
