# SPDX-License-Identifier: GPL-2.0-or-later
"""The stock kernel's drivers for disks, as an archive to append to an initramfs.

Debian's kernels have virtio, squashfs and overlayfs as modules. They are taken from the kernel's package,
which is fetched for them on demand, some 20 MiB, and are kept in the cache, complete or absent.
"""

from __future__ import annotations

import lzma
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from pvtime.errors import ImagesError
from pvtime.images import manifest
from pvtime.images.archive import ARCHITECTURE, Archive
from pvtime.images.cache import FetchProgress, silent
from pvtime.images.deb import extract
from pvtime.images.kept import Kept, kept
from pvtime.userland.cpio import CpioEntry, archive, directory, regular

__all__ = ["MODULES", "ORDER", "disk_drivers", "load_order"]

RECIPE: Final = 1
"""Version of the archive's contents; raise it to have caches rebuild theirs."""

WANTED: Final = ("virtio_mmio", "virtio_blk", "squashfs", "overlay")

MODULES: Final = "modules"
"""Directory of the guest that has them."""
ORDER: Final = "order"
"""File there with their names, each behind those that it needs."""

_DEPENDS: Final = re.compile(rb"\0depends=([^\0]*)\0")
"""Names of the modules that one needs, in its section .modinfo, by which depmod(8) goes as well."""

NEWEST: Final = "fetch the newest kernel (see pvtime images)"


def disk_drivers(cache: Path, progress: FetchProgress = silent) -> bytes:
    """Return the archive for the stock kernel, which ``cache`` must have; build it if it is missing.

    :raises ImagesError: the kernel's package cannot be had.
    """
    kernel = manifest.read(cache)["kernel"]
    version = re.sub(r"[^\w.+~-]", "_", kernel.version)
    stem = f"disk-{RECIPE}-{kernel.package}-{version}"
    return kept(
        cache / "drivers" / stem,
        cache / "drivers.lock",
        progress,
        lambda: Kept(stem, archive(_entries(Archive(cache, progress), kernel))),
    ).data


def _entries(packages: Archive, kernel: manifest.Image) -> Iterator[CpioEntry]:
    fields = packages.show(kernel.package)
    if fields.get("Version") != kernel.version:
        raise ImagesError(
            f"the system's apt sources no longer have {kernel.package} {kernel.version} for {ARCHITECTURE}, "
            f"which has the drivers for disks: {NEWEST}"
        )
    # From 6.19 on the modules are a package that the kernel's depends on.
    names = [kernel.package]
    names += re.findall(r"\blinux-modules-[0-9][\w.+~-]*", fields.get("Depends", ""))
    debs = packages.download(names)
    with tempfile.TemporaryDirectory(prefix="pvtime-drivers-") as unpacked:
        for deb in debs.values():
            extract(deb, Path(unpacked))
        modules = _modules(Path(unpacked))
    for deb in debs.values():
        deb.unlink()
    yield directory(MODULES)
    order = load_order(modules)
    for name in order:
        yield regular(f"{MODULES}/{name}.ko", modules[name])
    yield regular(f"{MODULES}/{ORDER}", "".join(f"{name}\n" for name in order).encode())


def _modules(root: Path) -> dict[str, bytes]:
    """Return the modules below ``root`` by the names that lsmod(8) gives them."""
    found = {}
    for path in sorted(root.rglob("*.ko*")):
        stem, _, suffix = path.name.partition(".ko")
        if suffix in ("", ".xz"):
            found[stem.replace("-", "_")] = path
    needed, waiting = {}, list(WANTED)
    while waiting:
        name = waiting.pop()
        if name in found and name not in needed:  # a driver that is not there is built in
            data = found[name].read_bytes()
            needed[name] = lzma.decompress(data) if found[name].suffix == ".xz" else data
            waiting += _depends(needed[name])
    return needed


def _depends(module: bytes) -> list[str]:
    match = _DEPENDS.search(module)
    text = match[1].decode("ascii", "replace") if match else ""
    return [name.replace("-", "_") for name in text.split(",") if name]


def load_order(modules: Mapping[str, bytes]) -> list[str]:
    """Return the names of modules, each behind those among them that it needs."""
    order: dict[str, None] = {}
    begun: set[str] = set()

    def add(name: str) -> None:
        begun.add(name)
        for needed in _depends(modules[name]):
            if needed in modules and needed not in begun:
                add(needed)
        order[name] = None

    for name in (*WANTED, *modules):
        if name in modules and name not in begun:
            add(name)
    return list(order)
