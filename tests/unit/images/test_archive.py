# SPDX-License-Identifier: GPL-2.0-or-later
"""A program's package with the libraries that it needs, as apt tells them."""

from __future__ import annotations

from pathlib import Path

import pytest

from framework.fake_apt import SIGNED, FakeApt
from pvtime.errors import ImagesError
from pvtime.images.archive import Archive


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeApt:
    """Put a made-up apt on PATH."""
    fake = FakeApt.install(tmp_path / "apt")
    monkeypatch.setenv("PATH", str(fake.directory))
    return fake


def test_libraries_come_in_any_depth_and_the_first_of_alternatives(apt: FakeApt, tmp_path: Path) -> None:
    # Every line was taken for the first of alternatives, so that only the first library came.
    apt.add("vmm", {}, "firmware, libone (>= 1), libtwo | libother, libtwo")
    apt.add("libone", {}, "libthree, libone")
    apt.add("libtwo", {}, "perl | libperl")
    apt.add("libthree", {}, "libc6")
    found = Archive(tmp_path / "cache").with_libraries("vmm")
    assert found == ["libc6", "libone", "libthree", "libtwo", "vmm"]


def test_a_program_that_no_source_has_is_named(apt: FakeApt, tmp_path: Path) -> None:
    with pytest.raises(ImagesError, match="no crosvm for arm64"):
        Archive(tmp_path / "cache").with_libraries("crosvm")


def test_packages_are_looked_up_by_one_start_of_apt(apt: FakeApt, tmp_path: Path) -> None:
    # The lab's 56 packages had one each: 7 s of a CPU.
    names = [f"{SIGNED}-unsigned", "busybox-static"]
    files = Archive(tmp_path / "cache").download(names)
    assert [path.read_bytes() for path in files.values()] == [apt.deb(name).read_bytes() for name in names]
    assert len(apt.calls("--print-uris")) == 1


def test_of_packages_the_one_that_no_source_has_is_named(apt: FakeApt, tmp_path: Path) -> None:
    with pytest.raises(ImagesError, match="no crosvm for arm64"):
        Archive(tmp_path / "cache").download(["busybox-static", "crosvm"])
