# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache directory, its manifest, and which sources apt is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvtime.errors import ImagesError
from pvtime.images import manifest
from pvtime.images.aptconf import choose_sources, read_sources
from pvtime.images.cache import atomic_file, cache_directory, exclusive, silent
from pvtime.images.store import ImageState, installed

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
IMAGE = manifest.Image("vmlinuz", "linux", "1", 5, "00")


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment in which only HOME is set."""
    for name in ("PVTIME_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    return monkeypatch


def test_the_cache_is_where_the_user_has_caches(home: pytest.MonkeyPatch) -> None:
    assert cache_directory() == Path("/home/me/.cache/pvtime")
    home.setenv("XDG_CACHE_HOME", "relative")
    assert cache_directory() == Path("/home/me/.cache/pvtime")
    home.setenv("XDG_CACHE_HOME", "/var/caches")
    assert cache_directory() == Path("/var/caches/pvtime")
    home.setenv("PVTIME_CACHE", "/srv/guests")
    assert cache_directory() == Path("/srv/guests")


def test_a_user_without_a_home_is_told_what_to_set(home: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    home.setattr(Path, "home", homeless)
    with pytest.raises(ImagesError, match="set PVTIME_CACHE"):
        cache_directory()


def test_a_file_that_was_not_finished_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def interrupted() -> None:
        with atomic_file(path) as partial:
            partial.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [("file", "old")]


def test_the_manifest_reads_back(tmp_path: Path) -> None:
    manifest.folder(tmp_path).mkdir()
    images = dict.fromkeys(manifest.STOCK, IMAGE)
    manifest.write(tmp_path, images)
    assert manifest.read(tmp_path) == images


@given(JSON)
def test_any_other_manifest_is_as_none(tmp_path_factory: pytest.TempPathFactory, document: Any) -> None:
    cache = tmp_path_factory.mktemp("cache")
    manifest.folder(cache).mkdir()
    file = manifest.folder(cache) / "manifest.json"
    for text in (
        json.dumps(document),
        json.dumps({"schema": 1, "images": document}),
        repr(document),
        "[" * 99999,
    ):
        file.write_text(text)
        assert [image.state for image in installed(cache)] == [ImageState.MISSING, ImageState.MISSING]


@pytest.mark.parametrize("change", [{"file": "../../etc/passwd"}, {"file": 1}, {"size": "5"}, {"extra": 1}])
def test_a_manifest_that_points_elsewhere_is_as_none(tmp_path: Path, change: dict[str, Any]) -> None:
    entry = {"file": "a", "package": "b", "version": "c", "size": 1, "sha256": "d"} | change
    manifest.folder(tmp_path).mkdir()
    document = {"schema": 1, "images": dict.fromkeys(manifest.STOCK, entry)}
    manifest.folder(tmp_path).joinpath("manifest.json").write_text(json.dumps(document))
    assert manifest.read(tmp_path) == {}


DEB822 = """\
# Debian's
Types: deb deb-src
URIs: http://mirror.test/pub/linux/whatever
Suites: stable
 stable-updates
Components: main
Architectures: amd64
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: https://vendor.test/linux/debian
Suites: stable
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .

Types: deb
Enabled: no
URIs: http://mirror.test/debian
Suites: old

Types: deb-src
URIs: http://mirror.test/debian
Suites: stable
"""

ONE_LINE = """\
deb cdrom:[Debian]/ stable main
deb http://mirror.test/debian stable main # ours
deb-src http://mirror.test/debian stable main
deb [arch=amd64 signed-by=/etc/vendor.gpg] http://vendor.test/debian stable main
deb [ arch=amd64,i386 trusted=no ] http://mirror.test/debian-security stable-security main
#deb http://mirror.test/debian sid main
deb
"""


def test_of_deb822_entries_debians_own_is_chosen_for_any_architecture(tmp_path: Path) -> None:
    file = tmp_path / "system.sources"
    file.write_text(DEB822)
    assert len(read_sources(file)) == 2
    (chosen,) = choose_sources(read_sources(file))
    assert chosen.text.startswith("Types: deb\nURIs: http://mirror.test/pub/linux/whatever\n")
    assert "Suites: stable\n stable-updates\n" in chosen.text
    assert "amd64" not in chosen.text


def test_of_one_line_entries_debians_own_are_chosen(tmp_path: Path) -> None:
    file = tmp_path / "sources.list"
    file.write_text(ONE_LINE)
    assert [source.text for source in choose_sources(read_sources(file))] == [
        "deb http://mirror.test/debian stable main # ours\n",
        "deb [trusted=no] http://mirror.test/debian-security stable-security main\n",
    ]


def test_where_none_is_debians_all_are_asked_but_a_cd(tmp_path: Path) -> None:
    file = tmp_path / "sources.list"
    file.write_text("deb cdrom:[x]/ s main\ndeb http://a.test/ubuntu s main\ndeb http://b.test/x s main\n")
    assert len(choose_sources(read_sources(file))) == 2


def test_a_file_of_another_kind_has_no_sources(tmp_path: Path) -> None:
    file = tmp_path / "x.list.disabled"
    file.write_text(ONE_LINE)
    assert read_sources(file) == []


@given(st.text(), st.sampled_from([".list", ".sources"]))
def test_no_sources_file_raises(tmp_path_factory: pytest.TempPathFactory, text: str, suffix: str) -> None:
    file = tmp_path_factory.mktemp("apt") / f"x{suffix}"
    file.write_text(text, errors="surrogatepass")
    choose_sources(read_sources(file))


def test_a_lock_that_is_a_link_is_refused_and_nothing_is_made_where_it_points(tmp_path: Path) -> None:
    # In a cache that another user can write, it made a file of this user's wherever that one chose.
    lock, elsewhere = tmp_path / "warm.lock", tmp_path / "elsewhere"
    lock.symlink_to(elsewhere)
    with pytest.raises(ImagesError, match=r"warm\.lock: it is a symbolic link"), exclusive(lock, silent):
        pass
    assert not elsewhere.exists()
