# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's initramfs: concatenated archives of Debian's packages, Python packages, and pvtime itself.

Debian's packages (Python and busybox for arm64) and the Python packages are archived once and kept in the
cache; the guest images and pvtime itself are archived at each start, in some 30 ms, so that the lab always
has the present code. The parts are put together in memory: nothing is left on the disk.

The Python packages are pure Python, so that the installed files serve on arm64 as they are. Unicorn is not
and stays out: the lab is for the kvm engine.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

import pvtime
from pvtime.errors import ImagesError, UsageError
from pvtime.images import manifest
from pvtime.images.archive import Archive
from pvtime.images.cache import FetchProgress, cache_directory, silent
from pvtime.images.deb import extract
from pvtime.images.kept import Kept, kept
from pvtime.images.store import stock_images
from pvtime.kmod.build import NAME, build_module
from pvtime.lab.tree import file_entries, tree_entries, with_parents
from pvtime.userland.cpio import CpioEntry, archive, directory, regular, symlink

__all__ = ["MODULE", "LabExtras", "closure", "distribution_entries", "fetch", "prepare", "pvtime_entries"]

RECIPE: Final = 1
"""Version of the archives' contents; raise it to have caches rebuild theirs."""

INIT: Final = Path(__file__).with_name("init")
CACHE: Final = "var/cache/pvtime"
"""The image cache in the lab, as the lab's init sets PVTIME_CACHE."""

MODULE: Final = f"usr/lib/pvtime/{NAME}.ko"
"""pvtime's kernel module in the lab."""

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
"""Links from / into /usr since Debian 12, in whose packages they still are directories."""

DROPPED: Final = re.compile(
    r"etc/|usr/share/|usr/lib/[^/]+/gconv/|"
    r"usr/lib/python3[^/]*/(ensurepip|idlelib|lib2to3|pydoc_data|test|tkinter|turtle|sitecustomize)"
)
"""Files that nothing in the lab uses: more than half of the packages."""

SITE: Final = "usr/lib/python3/dist-packages"
"""On the default sys.path of Debian's Python."""

REQUIRED: Final = ("cattrs", "click", "fdt", "rich")
"""Distributions that pvtime imports in the lab."""

START: Final = b"#!/usr/bin/python3\nimport sys\nfrom pvtime.__main__ import main\nsys.exit(main())\n"

_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class LabExtras:
    """Additional contents of a lab."""

    packages: tuple[str, ...] = ()
    """Debian packages; those that they depend on must be named too."""
    programs: tuple[str, ...] = ()
    """Debian packages; the library packages that they need come with them."""
    distributions: tuple[str, ...] = ()
    """Installed pure Python distributions; those that they depend on come with them."""
    trees: Mapping[str, Path] = field(default_factory=dict)
    """Directories of this machine, by their name in the lab (without a leading slash)."""
    module: bool = False
    """pvtime's kernel module; :mod:`pvtime.lab.module` loads it."""


def prepare(progress: FetchProgress = silent, extras: LabExtras | None = None) -> tuple[Path, int]:
    """Return the kernel's file, and a descriptor of the initramfs for the caller to close.

    :raises ImagesError: the guest images or the lab's packages cannot be had.
    :raises UsageError: a Python package that pvtime needs is not installed, or a program that the module is
        compiled with.
    """
    extras = extras or LabExtras()
    cache = cache_directory()
    images = stock_images(cache, progress)
    python, debian = _debian(cache, progress, extras)
    modules = _modules(cache, progress, python, extras.distributions)
    module = build_module(cache, progress) if extras.module else None
    initrd = os.memfd_create("pvtime-lab-initrd")
    with os.fdopen(initrd, "wb", closefd=False) as file:
        file.write(debian)
        file.write(modules)
        file.write(archive(with_parents(_own_entries(cache, python, extras.trees, module))))
    return images.kernel, initrd


def fetch(progress: FetchProgress = silent, extras: LabExtras | None = None) -> None:
    """Fetch into the cache everything that :func:`prepare` needs.

    :raises UsageError: a program that it is compiled with is not installed.
    :raises ImagesError: the guest images or the lab's packages cannot be had.
    """
    cache = cache_directory()
    stock_images(cache, progress)
    extras = extras or LabExtras()
    python, _ = _debian(cache, progress, extras)
    _modules(cache, progress, python, extras.distributions)
    if extras.module:
        build_module(cache, progress)


def _own_entries(
    cache: Path, python: str, trees: Mapping[str, Path], module: bytes | None
) -> Iterable[CpioEntry]:
    yield regular("init", INIT.read_bytes(), 0o755)
    yield from tree_entries(manifest.folder(cache), f"{CACHE}/images/", python)
    yield from pvtime_entries(python)
    for name, root in trees.items():
        yield from tree_entries(root, f"{name}/", python)
    if module is not None:
        yield regular(MODULE, module)


def _debian(cache: Path, progress: FetchProgress, extras: LabExtras) -> tuple[str, bytes]:
    """Return the version of the lab's Python, and the archive of Debian's packages."""
    key = _key(*PACKAGES, *extras.packages, *(f"{name} with libraries" for name in extras.programs))

    def build() -> Kept:
        packages = Archive(cache, progress)
        python = _lab_python(packages)
        more = [name for program in extras.programs for name in packages.with_libraries(program)]
        entries = _debian_entries(packages, python, (*extras.packages, *more))
        return Kept(f"debian-{python}-{key}", _built(entries, progress))

    found = kept(cache / "lab" / f"debian-*-{key}", cache / "lab.lock", progress, build)
    return found.stem.split("-")[1], found.data


def _modules(cache: Path, progress: FetchProgress, python: str, extra: tuple[str, ...]) -> bytes:
    """Return the archive of Python packages."""
    distributions = closure((*REQUIRED, *extra))
    versions = [f"{each.metadata['Name']} {each.version}" for each in distributions]
    stem = f"python-{python}-{_key(*versions)}"

    def build() -> Kept:
        return Kept(stem, _built(distribution_entries(distributions, python), progress))

    return kept(cache / "lab" / stem, cache / "lab.lock", progress, build).data


def _key(*parts: str) -> str:
    return hashlib.sha256("\n".join((str(RECIPE), *parts)).encode()).hexdigest()[:16]


def _built(entries: Iterable[CpioEntry], progress: FetchProgress) -> bytes:
    progress("building the lab", 0, None)
    return archive(with_parents(entries))


def _lab_python(archive: Archive) -> str:
    """Return the version of Debian's Python, such as ``3.11``.

    :raises ImagesError: the sources have none.
    """
    fields = archive.show("python3-minimal")
    depends = " ".join(fields.get(name, "") for name in ("Pre-Depends", "Depends"))
    match = re.search(r"python(3\.[0-9]+)-minimal", depends)
    if match is None:
        raise ImagesError(archive.missing("python3-minimal"))
    return match[1]


def _debian_entries(archive: Archive, python: str, extra: Sequence[str] = ()) -> Iterator[CpioEntry]:
    """Yield the root directory's entries; ``extra`` names packages beside :data:`PACKAGES`.

    :raises ImagesError: a package cannot be had or unpacked.
    """
    names = dict.fromkeys(name.format(python=python) for name in (*PACKAGES, *extra))
    debs = archive.download(list(names))
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


def _merge(entry: CpioEntry) -> CpioEntry:
    """Move an entry below one of :data:`MERGED` into /usr."""
    top = entry.name.partition("/")[0]
    return replace(entry, name=f"usr/{entry.name}") if top in MERGED else entry


def pvtime_entries(python: str) -> Iterator[CpioEntry]:
    """Yield the running pvtime, installed or checked out, and its command."""
    yield from tree_entries(Path(pvtime.__file__).parent, f"{SITE}/pvtime/", python)
    yield regular("usr/bin/pvtime", START, 0o755)


def closure(names: Iterable[str]) -> list[Distribution]:
    """Return the installed distributions ``names`` and their dependencies, sorted by name.

    :raises UsageError: one of them is not installed.
    """
    found: dict[str, Distribution] = {}
    waiting = [(name, False) for name in names]
    while waiting:
        name, optional = waiting.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()  # as PEP 503 compares names
        if key in found:
            continue
        try:
            found[key] = distribution(name)
        except PackageNotFoundError:
            if optional:
                continue
            raise UsageError(
                f"the Python package {name}, which the lab needs, is not installed here: install it (pip)"
            ) from None
        for requirement in found[key].requires or ():
            if "extra ==" not in requirement and (match := _NAME.match(requirement)):
                waiting.append((match.group(), ";" in requirement))
    return [found[key] for key in sorted(found)]


def distribution_entries(distributions: Iterable[Distribution], python: str) -> Iterator[CpioEntry]:
    """Yield the files of distributions, except their commands (``../../bin``) and old bytecode."""
    for installed in distributions:
        for file in sorted(installed.files or (), key=str):
            path = Path(str(installed.locate_file(file)))
            if ".." not in file.parts and "__pycache__" not in file.parts and path.is_file():
                yield from file_entries(f"{SITE}/{file}", path, python)
