# SPDX-License-Identifier: GPL-2.0-or-later
"""What the lab boots: a kernel, and an initramfs of concatenated archives.

Debian's packages and the Python packages are archived once and kept in the cache; the guest images and
pvtime itself are archived at each start, in some 30 ms, so that the lab always has the code as it is. The
whole is put together in memory: nothing is left on the disk.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pvtime.images import manifest
from pvtime.images.archive import Archive
from pvtime.images.cache import FetchProgress, atomic_file, cache_directory, cache_errors, exclusive, silent
from pvtime.images.store import stock_images
from pvtime.lab.debian import PACKAGES, debian_entries, lab_python
from pvtime.lab.modules import REQUIRED, closure, distribution_entries, pvtime_entries
from pvtime.lab.tree import tree_entries, with_parents
from pvtime.userland.cpio import Entry, archive, regular

__all__ = ["Extras", "fetch", "prepare"]

RECIPE: Final = 1
"""To be raised when the archives in the cache are to be made anew."""

INIT: Final = Path(__file__).with_name("init")
CACHE: Final = "var/cache/pvtime"
"""The image cache in the lab; init says so to pvtime."""


@dataclass(frozen=True)
class Extras:
    """What goes into a lab beside pvtime."""

    packages: tuple[str, ...] = ()
    """Debian packages; what they need is to be named too."""
    distributions: tuple[str, ...] = ()
    """Pure Python distributions that are installed here; what they need comes with them."""
    trees: Mapping[str, Path] = field(default_factory=dict)
    """Directories of this machine, by their name in the lab (without a leading slash)."""


def prepare(progress: FetchProgress = silent, extras: Extras | None = None) -> tuple[Path, int]:
    """Return the kernel's file, and a descriptor of the initramfs for the caller to close.

    :raises ImagesError: the guest images or the lab's packages cannot be had.
    :raises UsageError: a Python package that pvtime needs is not installed.
    """
    extras = extras or Extras()
    cache = cache_directory()
    images = stock_images(cache, progress)
    python, debian = _debian(cache, progress, extras.packages)
    modules = _modules(cache, progress, python, extras.distributions)
    initrd = os.memfd_create("pvtime-lab-initrd")
    with cache_errors(debian), os.fdopen(initrd, "wb", closefd=False) as file:
        for part in (debian, modules):
            file.write(part.read_bytes())
        file.write(archive(with_parents(_own_entries(cache, python, extras.trees))))
    return images.kernel, initrd


def fetch(progress: FetchProgress = silent) -> None:
    """Have all that :func:`prepare` needs in the cache.

    :raises ImagesError: the guest images or the lab's packages cannot be had.
    """
    cache = cache_directory()
    stock_images(cache, progress)
    python, _ = _debian(cache, progress, ())
    _modules(cache, progress, python, ())


def _own_entries(cache: Path, python: str, trees: Mapping[str, Path]) -> Iterable[Entry]:
    yield regular("init", INIT.read_bytes(), 0o755)
    yield from tree_entries(manifest.folder(cache), f"{CACHE}/images/", python)
    yield from pvtime_entries(python)
    for name, root in trees.items():
        yield from tree_entries(root, f"{name}/", python)


def _debian(cache: Path, progress: FetchProgress, extra: tuple[str, ...]) -> tuple[str, Path]:
    """Return the version of the lab's Python, and the archive of Debian's packages."""
    folder = cache / "lab"
    name = f"{_key(*PACKAGES, *extra)}.cpio"
    for path in folder.glob(f"debian-*-{name}"):
        return path.name.split("-")[1], path
    packages = Archive(cache, progress)
    python = lab_python(packages)
    path = folder / f"debian-{python}-{name}"
    _build(path, progress, lambda: debian_entries(packages, python, extra))
    return python, path


def _modules(cache: Path, progress: FetchProgress, python: str, extra: tuple[str, ...]) -> Path:
    """Return the archive of Python packages."""
    found = closure((*REQUIRED, *extra))
    versions = [f"{each.metadata['Name']} {each.version}" for each in found]
    path = cache / "lab" / f"python-{python}-{_key(*versions)}.cpio"
    if not path.exists():
        _build(path, progress, lambda: distribution_entries(found, python))
    return path


def _key(*parts: str) -> str:
    return hashlib.sha256("\n".join((str(RECIPE), *parts)).encode()).hexdigest()[:16]


def _build(path: Path, progress: FetchProgress, entries: Callable[[], Iterable[Entry]]) -> None:
    """Make an archive in the cache, unless another process has done so by now."""
    with exclusive(path.parent.parent / "lab.lock", progress), cache_errors(path):
        if path.exists():
            return
        path.parent.mkdir(exist_ok=True)
        progress(f"building the lab: {path.name}", 0, None)
        with atomic_file(path) as partial:
            partial.write_bytes(archive(with_parents(entries())))
