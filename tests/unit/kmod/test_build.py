# SPDX-License-Identifier: GPL-2.0-or-later
"""Compilation of the kernel module, with stand-ins for apt, dpkg-deb, make and the compiler."""

from __future__ import annotations

import re
import sys
import tarfile
from pathlib import Path

import pytest

from framework.fake_apt import FakeApt
from pvtime.errors import ImagesError, UsageError
from pvtime.images import manifest
from pvtime.images.store import stock_images
from pvtime.kmod.build import COMPILER, STRIP, build_module, module_sources

RELEASE = "6.9.9-1-cloud-arm64"
HEADERS = f"linux-headers-{RELEASE}"
COMMON = "linux-headers-6.9.9-1-common"
KBUILD = "linux-kbuild-6.9.9"
DEPENDS = f"{COMMON} (= 6.9.9-1), {KBUILD} (>= 6.9.9-1), gcc-12"

MAKE = """
import pathlib, sys
words = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
tree, module = pathlib.Path(sys.argv[sys.argv.index("-C") + 1]), pathlib.Path(words["M"])
common = pathlib.Path((tree / "Makefile").read_text().split()[1])
assert common.read_text() == "common", "the Makefile leads to the unpacked headers"
assert (words["ARCH"], words["CC"]) == ("arm64", "aarch64-linux-gnu-gcc")
source = (module / "update.c").read_bytes()
if (pathlib.Path(__file__).parent / "broken").exists():
    sys.exit("update.c:1:1: error: this is no C")
(module / "pvtime_kvm.ko").write_bytes(b"module of %d bytes" % len(source))
"""


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeApt:
    """An archive with a kernel and its headers, and programs that compile."""
    fake = FakeApt.install(tmp_path / "bin")
    makefile = f"include /usr/src/{COMMON}/Makefile\n".encode()
    fake.add(HEADERS, {f"./usr/src/{HEADERS}/Makefile": makefile}, DEPENDS)
    fake.add(COMMON, {f"./usr/src/{COMMON}/Makefile": b"common"})
    fake.add(KBUILD, {f"./usr/lib/{KBUILD}/scripts/modpost": b"program"})
    program(fake, "make", MAKE)
    program(fake, COMPILER, "print('gcc 12')")
    program(fake, STRIP, "")
    program(fake, "dpkg", "print('arm64')")
    monkeypatch.setenv("PATH", str(fake.directory))
    return fake


def program(fake: FakeApt, name: str, text: str) -> None:
    """Put a program beside the stand-ins for apt."""
    path = fake.directory / name
    path.write_text(f"#!{sys.executable} -SE\n{text}")
    path.chmod(0o755)


def test_it_is_compiled_once_for_a_kernel_and_a_compiler(apt: FakeApt, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    module = build_module(cache)
    assert module == b"module of %d bytes" % len(module_sources()["update.c"])
    fetches = len(apt.calls("apt-get"))
    program(apt, "make", "raise SystemExit('it is in the cache')")
    assert build_module(cache) == module
    program(apt, COMPILER, "print('gcc 13')")
    with pytest.raises(ImagesError, match=f"pvtime_kvm does not compile for Linux {RELEASE}: it is in the"):
        build_module(cache)
    assert len(apt.calls("apt-get")) == fetches, "the headers are kept"


def test_a_python_without_filters_for_archives_unpacks_the_headers(
    apt: FakeApt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Debian 12's Python is 3.11.2, and filters came with 3.11.4: no module was built, and no lab had one.
    extractall = tarfile.TarFile.extractall
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    monkeypatch.setattr(tarfile.TarFile, "extractall", lambda self, path: extractall(self, path))
    assert build_module(tmp_path / "cache") == b"module of %d bytes" % len(module_sources()["update.c"])


def test_a_damaged_module_is_compiled_again(apt: FakeApt, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    module = build_module(cache)
    (path,) = (cache / "kmod").glob("pvtime_kvm-*")
    path.write_bytes(module[:-1] + b"?")
    assert build_module(cache) == module


@pytest.mark.parametrize(
    ("missing", "package"),
    [
        (COMPILER, "gcc-aarch64-linux-gnu"),
        (STRIP, "binutils-aarch64-linux-gnu"),
        ("make", "make"),
    ],
)
def test_a_missing_program_is_named_with_its_package(
    missing: str, package: str, apt: FakeApt, tmp_path: Path
) -> None:
    (apt.directory / missing).unlink()
    with pytest.raises(UsageError, match=rf"^{missing} is not installed: .*apt install {package}\)$"):
        build_module(tmp_path / "cache")


def test_headers_that_are_not_to_be_had_are_named(apt: FakeApt, tmp_path: Path) -> None:
    apt.remove(HEADERS)
    with pytest.raises(ImagesError, match=rf"have no {HEADERS} for arm64, .*pvtime images --refresh"):
        build_module(tmp_path / "cache")


def test_headers_of_another_version_than_the_kernels_are_refused(apt: FakeApt, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    stock_images(cache)
    images = manifest.read(cache)
    old = images["kernel"]
    older = manifest.Image(old.file, old.package, "6.9.8-1", old.size, old.sha256)
    manifest.write(cache, images | {"kernel": older})
    with pytest.raises(ImagesError, match=rf"^{HEADERS} is of version .* and the kernel in the cache of 6.9"):
        build_module(cache)


def test_the_first_error_of_a_compilation_is_the_message(apt: FakeApt, tmp_path: Path) -> None:
    (apt.directory / "broken").touch()
    with pytest.raises(ImagesError, match=re.escape("update.c:1:1: error: this is no C")):
        build_module(tmp_path / "cache")
    assert not list((tmp_path / "cache" / "kmod").glob("pvtime_kvm-*"))
