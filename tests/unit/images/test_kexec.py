# SPDX-License-Identifier: GPL-2.0-or-later
"""Fetching kexec-tools, with stand-ins for apt and dpkg-deb."""

from __future__ import annotations

from pathlib import Path

import pytest

from framework.fake_apt import FakeApt
from pvtime.errors import ImagesError
from pvtime.images.kexec import PACKAGE, kexec_archive
from pvtime.userland import cpio

LOADER = "ld-linux-aarch64.so.1"


@pytest.fixture(params=["sbin", "usr/sbin"])
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> FakeApt:
    """An archive with the package and the libraries that it needs; two of these need each other.

    Debian 13 has everything below /usr.
    """
    fake = FakeApt.install(tmp_path / "bin")
    fake.add(
        PACKAGE,
        {f"./{request.param}/kexec": b"kexec", "./etc/kexec": b"no"},
        "libone (>= 1), zlib1g, debconf | x",
    )
    fake.add("zlib1g", {"./usr/lib/aarch64-linux-gnu/libz.so.1": b"z"}, "libc6")
    fake.add("libone", {"./usr/lib/aarch64-linux-gnu/xen/not.so": b"no"}, "libtwo:any | libthree")
    fake.add("libtwo", {"./usr/share/doc/libtwo.so.txt": b"no"}, "libc6, libone")
    usr = str(request.param).removesuffix("sbin")
    fake.add("libc6", {f"./{usr}lib/aarch64-linux-gnu/{LOADER}": b"loader", "./etc/ld.so.conf": b"no"})
    monkeypatch.setenv("PATH", str(fake.directory))
    return fake


def test_the_program_comes_with_the_libraries_it_needs_and_nothing_else(apt: FakeApt, tmp_path: Path) -> None:
    libraries = "lib/aarch64-linux-gnu"
    assert kexec_archive(tmp_path / "cache") == cpio.archive(
        [
            cpio.regular("bin/kexec", b"kexec", 0o755),
            cpio.directory("lib"),
            cpio.directory(libraries),
            cpio.symlink(f"lib/{LOADER}", f"aarch64-linux-gnu/{LOADER}"),
            cpio.regular(f"{libraries}/{LOADER}", b"loader", 0o755),
            cpio.regular(f"{libraries}/libz.so.1", b"z", 0o755),
        ]
    )
    assert not list(tmp_path.glob("cache/archive/packages/*")), "the packages are of no use any more"


def test_it_is_fetched_once(apt: FakeApt, tmp_path: Path) -> None:
    data = kexec_archive(tmp_path / "cache")
    calls = len(apt.calls(""))
    assert kexec_archive(tmp_path / "cache") == data
    assert len(apt.calls("")) == calls


def test_a_fetch_that_fails_leaves_nothing(apt: FakeApt, tmp_path: Path) -> None:
    apt.add(PACKAGE, {"./usr/bin/kexec": b"moved"})
    with pytest.raises(ImagesError, match="no sbin/kexec in this package"):
        kexec_archive(tmp_path / "cache")
    apt.remove(PACKAGE)
    with pytest.raises(ImagesError, match=f"no {PACKAGE} for arm64"):
        kexec_archive(tmp_path / "cache")
    assert not list((tmp_path / "cache" / "kexec").iterdir())
