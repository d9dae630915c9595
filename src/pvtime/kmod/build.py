# SPDX-License-Identifier: GPL-2.0-or-later
"""Compilation of pvtime_kvm for the stock kernel, with a cross compiler and Debian's headers of that kernel.

Headers and module are kept in the cache, each with its checksum. The module is compiled again where its
sources, the kernel or the compiler are others: 4 s of one CPU. Layout of the cache::

    kmod/    headers-RELEASE-VERSION-ARCHITECTURE.*.kept     the three packages, in a tar archive
             pvtime_kvm-RELEASE-KEY.*.kept                   the module
"""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Final

from pvtime.errors import ImagesError, UsageError
from pvtime.images import manifest
from pvtime.images.archive import ARCHITECTURE, Archive
from pvtime.images.cache import FetchProgress, cache_errors, silent
from pvtime.images.deb import extract
from pvtime.images.kept import Kept, kept
from pvtime.images.store import stock_images

__all__ = ["COMPILER", "NAME", "build_module", "module_sources", "require_programs"]

NAME: Final = "pvtime_kvm"
"""The module, as lsmod(8) lists it."""

RECIPE: Final = 1
"""Version of the compilation; raise it to have caches compile anew."""

CROSS: Final = "aarch64-linux-gnu-"
COMPILER: Final = f"{CROSS}gcc"
STRIP: Final = f"{CROSS}strip"

PROGRAMS: Final = {COMPILER: "gcc-aarch64-linux-gnu", STRIP: "binutils-aarch64-linux-gnu", "make": "make"}
"""Programs that a compilation takes, and Debian's packages that have them."""

SOURCES: Final = "module"
"""Directory of the sources in this package."""

NEWEST: Final = "fetch the newest kernel (pvtime images --refresh)"


def build_module(cache: Path, progress: FetchProgress = silent) -> bytes:
    """Return the module for the stock kernel of ``cache``, having fetched and compiled what is missing.

    :raises UsageError: a program that compiles it is not installed.
    :raises ImagesError: the kernel or its headers cannot be had, or the module does not compile with them.
    """
    require_programs()
    stock_images(cache, progress)
    kernel = manifest.read(cache)["kernel"]
    release = kernel.file.removeprefix("vmlinuz-")
    sources = module_sources()
    stem = f"{NAME}-{release}-{_key(kernel, sources)}"

    def build() -> Kept:
        headers = _headers(cache, progress, release, kernel.version)
        progress(f"compiling {NAME} for Linux {release}", 0, None)
        return Kept(stem, _compile(headers, release, sources))

    return kept(cache / "kmod" / stem, cache / "kmod.lock", progress, build).data


def require_programs() -> None:
    """Check that the programs that compile it are installed.

    :raises UsageError: one is not.
    """
    for program, package in PROGRAMS.items():
        if shutil.which(program) is None:
            raise UsageError(
                f"{program} is not installed: {NAME}, pvtime's kernel module, is compiled with it "
                f"(Debian: apt install {package})"
            )


def module_sources() -> dict[str, bytes]:
    """Return the module's source files by name."""
    directory = resources.files(__package__) / SOURCES
    return {file.name: file.read_bytes() for file in sorted(directory.iterdir(), key=lambda file: file.name)}


def _key(kernel: manifest.Image, sources: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for part in (str(RECIPE), kernel.package, kernel.version, _run([COMPILER, "--version"])):
        digest.update(part.encode() + b"\0")
    for name, source in sources.items():
        digest.update(f"{name}\0{len(source)}\0".encode() + source)
    return digest.hexdigest()[:16]


# Headers.


def _headers(cache: Path, progress: FetchProgress, release: str, version: str) -> bytes:
    """Return a tar archive of the packages that a module for this kernel is compiled with."""
    here = _run(["dpkg", "--print-architecture"]).strip()
    stem = f"headers-{release}-{version.replace('/', '_')}-{here}"

    def build() -> Kept:
        return Kept(stem, _fetch(cache, progress, f"linux-headers-{release}", version, here))

    return kept(cache / "kmod" / stem, cache / "kmod-headers.lock", progress, build).data


def _fetch(cache: Path, progress: FetchProgress, package: str, version: str, here: str) -> bytes:
    """Download the kernel's headers, and the programs of the kernel's own build for this machine.

    :param here: this machine's architecture, as Debian names it.
    """
    guests = Archive(cache, progress)
    fields = guests.show(package)
    if not fields:
        raise ImagesError(
            f"the system's apt sources have no {package} for {ARCHITECTURE}, which {NAME} is compiled with: "
            f"{NEWEST}, whose headers they have"
        )
    if fields["Version"] != version:
        raise ImagesError(
            f"{package} is of version {fields['Version']} and the kernel in the cache of {version}: {NEWEST}"
        )
    common, kbuild = (_dependency(package, fields["Depends"], kind) for kind in ("headers", "kbuild"))
    debs = list(guests.download([package, common]).values())
    own = guests if here == ARCHITECTURE else Archive(cache, progress, here)
    debs += own.download([kbuild]).values()
    buffer = io.BytesIO()
    with cache_errors(cache), tarfile.open(fileobj=buffer, mode="w") as archive:
        for deb in debs:
            archive.add(deb, deb.name)
    for deb in debs:
        deb.unlink()
    return buffer.getvalue()


def _dependency(package: str, depends: str, kind: str) -> str:
    match = re.search(rf"\blinux-{kind}-[0-9][\w.+~-]*", depends)
    if match is None:
        raise ImagesError(f"{package} depends on no linux-{kind}: {NAME} cannot be compiled with it")
    return match[0]


# Compilation.


def _compile(headers: bytes, release: str, sources: Mapping[str, bytes]) -> bytes:
    with tempfile.TemporaryDirectory(prefix="pvtime-kmod-") as name, cache_errors(Path(name)):
        directory = Path(name)
        root, module = directory / "root", directory / SOURCES
        with tarfile.open(fileobj=io.BytesIO(headers)) as archive:
            # Python 3.11.2, which is Debian 12's, has no filters; the archive is pvtime's own.
            archive.extraction_filter = getattr(tarfile, "data_filter", None)
            archive.extractall(directory / "debs")
        for deb in sorted((directory / "debs").iterdir()):
            extract(deb, root)
        tree = root / "usr" / "src" / f"linux-headers-{release}"
        makefile = tree / "Makefile"
        makefile.write_text(makefile.read_text().replace("/usr/src/", f"{root}/usr/src/"))
        module.mkdir()
        for file, source in sources.items():
            module.joinpath(file).write_bytes(source)
        command = ["make", "-s", "-C", str(tree), f"M={module}", "ARCH=arm64"]
        # Debian's own compiler has its version in its name.
        _run([*command, f"CROSS_COMPILE={CROSS}", f"CC={COMPILER}", "modules"], release)
        built = module / f"{NAME}.ko"
        _run([STRIP, "--strip-debug", str(built)])
        return built.read_bytes()


def _run(command: list[str], release: str = "") -> str:
    """Run a program and return its output.

    :param release: the kernel's, where it compiles the module for it.
    :raises ImagesError: it fails; the message has its first error.
    """
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise UsageError(f"{command[0]} is not installed: {NAME} cannot be compiled without it") from error
    if done.returncode:
        lines = (done.stderr + done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        first = next((line for line in lines if "error" in line.lower()), lines[-1])
        doing = f"{NAME} does not compile for Linux {release}" if release else f"{command[0]} failed"
        raise ImagesError(f"{doing}: {first.strip()}: {NEWEST}, or report this")
    return done.stdout
