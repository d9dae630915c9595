# SPDX-License-Identifier: GPL-2.0-or-later
"""Fetching of the stock guest images from Debian's packages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from pvtime.errors import ImagesError
from pvtime.images import manifest
from pvtime.images.archive import Archive
from pvtime.images.cache import FetchProgress, cache_errors
from pvtime.images.deb import take

__all__ = ["fetch"]

KERNEL: Final = "linux-image-cloud-arm64"
"""Meta-package; it depends on the newest kernel with drivers for virtual hardware only."""

BUSYBOX: Final = "busybox-static"

MEMBERS: Final[Mapping[str, tuple[str, ...]]] = {
    "kernel": ("./boot/vmlinuz-*", "./usr/lib/modules/*/vmlinuz"),
    "busybox": ("*/bin/busybox",),
}
"""Paths of the images in their packages. Debian's kernels from 7.2 on are below usr/lib, its busybox since
Debian 13 in usr/bin."""


def fetch(cache: Path, progress: FetchProgress) -> None:
    """Download the newest stock images and put them into ``cache``, whose lock the caller holds.

    :raises ImagesError: they cannot be had.
    """
    archive = Archive(cache, progress)
    packages = {"kernel": _kernel_package(archive), "busybox": BUSYBOX}
    debs = archive.download(list(packages.values()))
    folder = manifest.folder(cache)
    with cache_errors(folder):
        folder.mkdir(exist_ok=True)
        fetched = {
            name: _unpack(name, package, debs[package], folder, progress)
            for name, package in packages.items()
        }
        manifest.write(cache, fetched)
        _tidy(folder, {image.file for image in fetched.values()}, debs.values())


def _kernel_package(archive: Archive) -> str:
    """Return the name of the package that has the newest kernel's Image.

    Up to 6.x it is linux-image-X, and the unsigned package is taken where the archive has it: it is built
    with the kernel, the signed one some time after it, and the code is the same. From 6.19 on linux-image-X
    is empty and depends on linux-binary-X (Debian's linux source package, 6.19).
    """
    image = _dependency(archive, KERNEL, "linux-image")
    if image is None:
        raise ImagesError(archive.missing(KERNEL))
    unsigned = f"{image}-unsigned"
    if archive.show(unsigned):
        return unsigned
    return _dependency(archive, image, "linux-binary") or image


def _dependency(archive: Archive, package: str, kind: str) -> str | None:
    """Return the package among those ``package`` depends on that is ``kind``, a version and the flavour."""
    depends = archive.show(package).get("Depends", "")
    match = re.search(rf"\b{kind}-[0-9][\w.+~-]*-cloud-arm64\b", depends)
    return match and match[0]


def _unpack(name: str, package: str, deb: Path, folder: Path, progress: FetchProgress) -> manifest.Image:
    progress(f"unpacking {package}", 0, None)
    # NAME_VERSION_ARCHITECTURE.deb, where apt writes the colon of an epoch as %3a
    version = deb.name.split("_")[1].replace("%3a", ":")
    release = re.sub(r"^linux-(image|binary)-|-unsigned$", "", package)
    file = f"vmlinuz-{release}" if name == "kernel" else name
    member = take(deb, MEMBERS[name], folder / file)
    return manifest.Image(file, package, version, member.size, member.sha256)


def _tidy(folder: Path, kept: set[str], debs: Iterable[Path]) -> None:
    """Remove the packages and the previous images."""
    for path in folder.iterdir():
        if path.name not in kept | {"manifest.json"}:
            path.unlink()
    for deb in debs:
        deb.unlink()
