# SPDX-License-Identifier: GPL-2.0-or-later
"""Fetching the stock guest images, with stand-ins for apt and dpkg-deb."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

import pvtime
from framework.fake_apt import KERNEL, META, SIGNED, FakeApt
from framework.wait import wait_until
from pvtime.errors import ImagesError
from pvtime.images import manifest
from pvtime.images.archive import Archive
from pvtime.images.store import ImageState, StockImages, installed, stock_images, verify
from pvtime.seal import await_tick

UNSIGNED = f"{SIGNED}-unsigned"


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeApt:
    """Nothing but the stand-ins and a shell is on PATH."""
    fake = FakeApt.install(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(fake.directory))
    return fake


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache that is not there yet."""
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the images, which one fetch of a dozen programs has filled."""
    folder = tmp_path_factory.mktemp("fetched")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(FakeApt.install(folder / "bin").directory))
        stock_images(folder / "cache")
    return folder / "cache"


@pytest.fixture
def filled(apt: FakeApt, cache: Path, fetched: Path) -> StockImages:
    """The images in the test's own cache, as if they had been fetched to there."""
    shutil.copytree(manifest.folder(fetched), manifest.folder(cache))
    before = len(apt.calls(""))
    images = stock_images(cache)
    assert len(apt.calls("")) == before, "nothing is fetched"
    return images


def refused(cache: Path) -> str:
    """Fetch, expecting one line; nothing half may be left."""
    with pytest.raises(ImagesError) as caught:
        stock_images(cache)
    text = str(caught.value)
    assert "\n" not in text
    folder = manifest.folder(cache)
    assert not folder.is_dir() or not [path for path in folder.iterdir() if path.suffix == ".partial"]
    return text


def test_both_images_come_from_the_packages(apt: FakeApt, cache: Path) -> None:
    images = stock_images(cache)
    assert images.kernel.read_bytes() == KERNEL
    assert images.busybox.read_bytes() == b"busybox"
    kernel, busybox = verify(cache)
    assert (kernel.name, kernel.package, kernel.version) == ("kernel", UNSIGNED, "1:2")
    assert (busybox.name, busybox.size, busybox.state) == ("busybox", 7, ImageState.PRESENT)
    assert not list(cache.glob("archive/packages/*")), "the packages are of no use any more"


def test_apt_gets_the_systems_sources_and_network_but_its_own_state(apt: FakeApt, cache: Path) -> None:
    stock_images(cache)
    config = cache.joinpath("archive/apt.conf").read_text()
    assert 'Acquire::http::Proxy "http://proxy.test:3128";' in config
    assert "Icons" not in config
    assert f'Dir::State::lists "{cache}/archive/lists";' in config
    written = cache.joinpath("archive/sources.list.d/system.list").read_text()
    assert written == "deb http://mirror.test/debian stable main\n", "arm64 is wanted, whatever the system is"


def test_what_is_there_is_taken_without_any_program(apt: FakeApt, cache: Path) -> None:
    first = stock_images(cache)
    before = len(apt.calls(""))
    assert stock_images(cache) == first
    assert len(apt.calls("")) == before


@pytest.mark.parametrize("name", manifest.STOCK)
@pytest.mark.parametrize("damage", ["truncated", "emptied", "removed"])
def test_a_damaged_file_is_noticed_and_fetched_again(
    filled: StockImages, cache: Path, name: str, damage: str
) -> None:
    path: Path = getattr(filled, name)
    whole = path.read_bytes()
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(whole[:-1] if damage == "truncated" else b"")
    (state,) = [image.state for image in installed(cache) if image.name == name]
    assert state is (ImageState.MISSING if damage == "removed" else ImageState.DAMAGED)
    assert getattr(stock_images(cache), name).read_bytes() == whole


@pytest.mark.parametrize("name", manifest.STOCK)
def test_an_image_with_a_changed_byte_is_never_used_but_fetched_again(
    filled: StockImages, cache: Path, name: str
) -> None:
    """Once only --verify compared the checksum, and a run booted whatever had the right size."""
    path: Path = getattr(filled, name)
    whole = path.read_bytes()
    path.write_bytes(b"x" + whole[1:])
    assert [image.state for image in installed(cache)] == [ImageState.PRESENT, ImageState.PRESENT]
    assert [image.name for image in verify(cache) if image.state is ImageState.DAMAGED] == [name]
    said: list[str] = []
    stock_images(cache, lambda what, *_: said.append(what))
    assert f"{path} is damaged: fetching it again" in said
    assert path.read_bytes() == whole


def raise_that_it_was_hashed(*_: object) -> None:
    """Take the place of what computes a checksum."""
    raise AssertionError("it was hashed")


def test_an_image_is_hashed_once_and_again_when_it_was_written(
    cache: Path, filled: StockImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = filled.kernel
    await_tick()
    stock_images(cache)
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", raise_that_it_was_hashed)
        assert stock_images(cache).kernel == kernel
    os.utime(kernel)
    await_tick()
    monkeypatch.setattr(hashlib, "file_digest", raise_that_it_was_hashed)
    with pytest.raises(AssertionError, match="it was hashed"):
        stock_images(cache)


@pytest.mark.parametrize("seals", ["", "[]", "[" * 10_000, '{"vmlinuz": 1}'])
def test_seals_that_nobody_understands_are_nothing(
    apt: FakeApt, cache: Path, filled: StockImages, seals: str
) -> None:
    kernel = filled.kernel
    (cache / "images" / "seals.json").write_text(seals)
    kernel.write_bytes(b"x" + KERNEL[1:])
    apt.fail("offline")
    assert "Could not resolve" in refused(cache)


def test_a_damaged_image_that_cannot_be_fetched_is_not_used(
    apt: FakeApt, cache: Path, filled: StockImages
) -> None:
    filled.kernel.write_bytes(b"x" + KERNEL[1:])
    apt.fail("offline")
    assert "Could not resolve" in refused(cache)


@pytest.mark.parametrize(
    ("version", "member"),
    [
        ("7.0.13+deb13", "./boot/vmlinuz-7.0.13+deb13-cloud-arm64"),
        ("7.2.13+deb14", "./usr/lib/modules/7.2.13+deb14-cloud-arm64/vmlinuz"),
    ],
)
def test_a_kernel_in_a_package_of_its_own_is_found(
    apt: FakeApt, cache: Path, version: str, member: str
) -> None:
    """Debian's newer linux-image packages are empty, and its newest kernels are not in /boot."""
    apt.add_split_kernel(version, member)
    kernel = stock_images(cache).kernel
    assert kernel.read_bytes() == KERNEL
    assert kernel.name == f"vmlinuz-{version}-cloud-arm64"
    assert verify(cache)[0].package == f"linux-binary-{version}-cloud-arm64"


@pytest.mark.parametrize("place", ["bin", "usr/bin"])
def test_busybox_is_found_in_both_places(apt: FakeApt, cache: Path, place: str) -> None:
    apt.add("busybox-static", {f"./{place}/busybox": b"in " + place.encode()})
    assert stock_images(cache).busybox.read_bytes() == b"in " + place.encode()


def test_a_refresh_replaces_the_kernel_before(apt: FakeApt, cache: Path, filled: StockImages) -> None:
    old = filled.kernel
    apt.add(META, {}, "linux-image-7.0.0-cloud-arm64")
    apt.add("linux-image-7.0.0-cloud-arm64", {"./boot/vmlinuz-7.0.0": b"new"})
    assert stock_images(cache).kernel == old, "a newer kernel in the archive is no reason to fetch"
    new = stock_images(cache, refresh=True).kernel
    assert new.read_bytes() == b"new", "and where there is no unsigned package, the signed one serves"
    assert not old.exists()


def test_two_at_once_fetch_once(apt: FakeApt, cache: Path) -> None:
    held = apt.hold()
    program = (
        "import sys; from pathlib import Path; from pvtime.images.store import stock_images;"
        "stock_images(Path(sys.argv[1]), lambda what, *_: print(what, flush=True))"
    )
    source = str(Path(pvtime.__file__).parents[1])
    said = [apt.directory / "first", apt.directory / "second"]

    def waiting() -> int:
        return sum("waiting for another pvtime" in file.read_text() for file in said)

    with ExitStack() as stack:
        both = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", program, cache],
                    env={**os.environ, "PYTHONPATH": source},
                    stdout=stack.enter_context(file.open("w")),
                )
            )
            for file in said
        ]
        stack.callback(held.unlink, missing_ok=True)
        wait_until(waiting, message="nobody waits for the other one")
        held.unlink()
    assert [process.returncode for process in both] == [0, 0]
    assert len(apt.calls("transfer")) == 2, "one of each package"
    assert waiting() == 1


def test_a_broken_download_goes_on_where_it_broke(apt: FakeApt, cache: Path) -> None:
    apt.fail("cut")
    assert "Connection reset by peer" in refused(cache)
    half = apt.deb(UNSIGNED).stat().st_size // 2
    apt.fail("")
    assert stock_images(cache).kernel.read_bytes() == KERNEL
    assert [call for call in apt.calls(f"transfer {UNSIGNED}") if f" {half}.." in call]


def test_a_package_that_a_crash_left_full_of_zeros_is_downloaded_again(apt: FakeApt, cache: Path) -> None:
    archive = Archive(cache)
    file = archive.download([UNSIGNED])[UNSIGNED]
    file.write_bytes(bytes(file.stat().st_size))
    archive.download([UNSIGNED])
    assert file.read_bytes() == apt.deb(UNSIGNED).read_bytes()


def test_the_progress_counts_bytes_up_to_the_total(apt: FakeApt, cache: Path) -> None:
    seen: list[tuple[int, int]] = []
    stock_images(cache, lambda what, done, total: seen.append((done, total)) if total else None)
    total = apt.deb(UNSIGNED).stat().st_size + apt.deb("busybox-static").stat().st_size
    assert seen == sorted(seen)
    assert seen[-1] == (total, total)


@pytest.mark.parametrize(
    ("mode", "named"),
    [
        ("hash", "Hash Sum mismatch"),
        ("room", "No space left on device"),
        ("offline", "Could not resolve 'mirror.test'"),
        # It was told as a package that no source has.
        ("preferences", "Invalid record in the preferences file"),
    ],
)
def test_what_apt_says_went_wrong_is_the_line(apt: FakeApt, cache: Path, mode: str, named: str) -> None:
    apt.fail(mode)
    text = refused(cache)
    assert named in text
    assert "PVTIME_CACHE" in text or "again" in text


def test_a_source_that_fails_does_not_matter_if_another_has_it(apt: FakeApt, cache: Path) -> None:
    apt.fail("third-party")
    assert stock_images(cache).kernel.read_bytes() == KERNEL


@pytest.mark.parametrize("package", [META, "busybox-static"])
def test_a_package_that_no_source_has_is_named(apt: FakeApt, cache: Path, package: str) -> None:
    apt.remove(package)
    text = refused(cache)
    assert f"no {package} for arm64" in text
    assert "--kernel" not in text, "not every command has that"


def test_no_sources_at_all_is_said(apt: FakeApt, cache: Path) -> None:
    apt.directory.joinpath("debian.list").write_text("# nothing\n")
    assert "apt has no sources" in refused(cache)


@pytest.mark.parametrize("program", ["apt-config", "apt-get", "dpkg-deb"])
def test_a_machine_without_the_program_gets_one_sentence(apt: FakeApt, cache: Path, program: str) -> None:
    apt.directory.joinpath(program).unlink()
    text = refused(cache)
    assert "is not on this machine: fetch on another machine, and copy its cache (PVTIME_CACHE)" in text


def test_no_room_names_the_place_and_the_size(
    apt: FakeApt, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs(cache.parent)
    fields = list(real)
    fields[4] = (5 << 20) // real.f_frsize  # f_bavail
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(fields))
    text = refused(cache)
    assert str(cache) in text
    assert "96 MiB needed, 5 MiB free" in text


def test_a_disk_that_fills_up_while_unpacking_leaves_nothing(
    apt: FakeApt, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    text = refused(cache)
    assert "No space left on device: make room there" in text
    assert installed(cache)[0].state is ImageState.MISSING


def test_a_file_where_the_cache_should_be(apt: FakeApt, cache: Path) -> None:
    cache.write_text("")
    assert "PVTIME_CACHE" in refused(cache)


def test_a_cache_that_cannot_be_written_to(apt: FakeApt) -> None:
    text = refused(Path("/proc/pvtime"))
    assert text.startswith("/proc/pvtime")
    assert "PVTIME_CACHE" in text


def test_a_name_that_apt_could_not_read_is_refused(apt: FakeApt, tmp_path: Path) -> None:
    assert "apt cannot work" in refused(tmp_path / 'a"b')


@pytest.mark.parametrize("kept", [0, 700, 20_000])
def test_a_damaged_package_leaves_nothing_half(apt: FakeApt, cache: Path, kept: int) -> None:
    deb = apt.deb(UNSIGNED)
    deb.write_bytes(deb.read_bytes()[:kept])
    assert "damaged package" in refused(cache)
    assert not list(manifest.folder(cache).glob("vmlinuz*"))


def test_a_package_without_the_file_is_named(apt: FakeApt, cache: Path) -> None:
    apt.add("busybox-static", {"./usr/share/doc/busybox": b""})
    assert "busybox-static_1%3a2_arm64.deb: no */bin/busybox in this package" in refused(cache)
