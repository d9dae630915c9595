# SPDX-License-Identifier: GPL-2.0-or-later
"""Fetching the stock guest images for real: apt, its signatures, dpkg-deb, and the network."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pvtime.errors import ImagesError
from pvtime.images.archive import Archive
from pvtime.images.deb import extract
from pvtime.images.store import ImageState, StockImages, stock_images, verify
from pvtime.userland.build import build_initramfs

SYSTEM = Path("/var/lib/apt")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty cache, which the tests of this file fill."""
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: nothing can be fetched")
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def images(cache: Path) -> StockImages:
    """The stock images, just fetched."""
    return stock_images(cache)


@pytest.fixture(scope="module")
def archive(images: StockImages, cache: Path) -> Archive:
    """The archive that the images came from."""
    return Archive(cache)


def state_of_the_system() -> list[tuple[str, int]]:
    """Say what the system's apt has, and since when."""
    found = [SYSTEM, *SYSTEM.rglob("*")] if os.access(SYSTEM, os.R_OK) else []
    return sorted((str(path), path.stat().st_mtime_ns) for path in found if os.access(path, os.R_OK))


def test_the_kernel_is_an_arm64_image_and_busybox_a_static_arm64_program(images: StockImages) -> None:
    kernel = images.kernel.read_bytes()
    assert kernel[56:60] == b"ARM\x64" or kernel[:2] == b"\x1f\x8b" or kernel[4:8] == b"zimg"
    assert build_initramfs(images.busybox).startswith(b"070701")


def test_they_are_what_apt_verified(images: StockImages, cache: Path) -> None:
    assert [image.state for image in verify(cache)] == [ImageState.PRESENT, ImageState.PRESENT]


def test_the_systems_apt_is_left_alone(archive: Archive) -> None:
    before = state_of_the_system()
    archive.download(["busybox-static"])
    assert state_of_the_system() == before


def test_a_download_that_was_cut_or_damaged_is_mended(archive: Archive) -> None:
    whole = archive.download(["busybox-static"])["busybox-static"]
    content = whole.read_bytes()
    for left in (content[: len(content) // 2], bytes(len(content) // 2), bytes(len(content))):
        whole.write_bytes(left)
        archive.download(["busybox-static"])
        assert whole.read_bytes() == content


def test_a_package_unpacks(images: StockImages, archive: Archive, tmp_path: Path) -> None:
    deb = archive.download(["busybox-static"])["busybox-static"]
    extract(deb, tmp_path / "root")
    (program,) = [path for path in tmp_path.rglob("bin/busybox") if path.is_file()]
    assert program.read_bytes() == images.busybox.read_bytes()
    deb.write_bytes(deb.read_bytes()[:-1000])
    with pytest.raises(ImagesError, match="damaged package"):
        extract(deb, tmp_path / "half")


def test_a_name_that_does_not_exist_is_one_line(archive: Archive) -> None:
    with pytest.raises(ImagesError, match="no pvtime-no-such-package for arm64"):
        archive.download(["pvtime-no-such-package"])


def test_without_a_network_there_is_one_line(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = subprocess.run(
        ["apt-config", "dump", "Acquire"], capture_output=True, text=True, check=True
    ).stdout
    if "::Proxy " in config:
        pytest.skip("apt has a proxy in its configuration, which counts for more than the environment's")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(
        ImagesError, match=r"^apt-get failed: Failed to fetch [^\n]*copy its cache \(PVTIME_CACHE\)$"
    ):
        stock_images(tmp_path / "cache")
