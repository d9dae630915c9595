# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the user's files are in a guest: in its memory, or on a disk."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from pvtime.errors import EngineError, UsageError
from pvtime.machine.machine import Machine
from pvtime.run.guest_files import MAX_FILES_IN_MEMORY, MAX_IN_MEMORY, guest_files
from pvtime.run.options import GuestOptions
from pvtime.userland.rootfs import MAKER, maker_missing
from unit.machine.test_machine import configure

SQUASHFS = b"hsqs"
"""The kernel's Documentation/filesystems/squashfs.rst; fs/squashfs/squashfs_fs.h."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a cache of the test's own."""
    monkeypatch.setenv("PVTIME_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


needs_maker = pytest.mark.skipif(
    maker_missing() is not None, reason=f"{MAKER} is not installed (Debian: apt install squashfs-tools)"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a root that is too large for the guest's memory."""
    root = tmp_path / "root"
    root.mkdir()
    with (root / "large").open("wb") as file:
        file.truncate(MAX_IN_MEMORY + 1)
    return root


@needs_maker
def test_a_root_of_many_files_is_on_a_disk(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for number in range(MAX_FILES_IN_MEMORY + 1):
        (root / str(number)).symlink_to("nothing")
    with contextlib.closing(guest_files(GuestOptions(rootfs=root))) as files:
        assert [disk.serial for disk in files.disks] == ["root"]


@needs_maker
def test_a_large_root_is_on_a_disk_that_the_cache_keeps_no_file_of(root: Path, cache: Path) -> None:
    files = guest_files(GuestOptions(rootfs=root))
    with contextlib.closing(files):
        (disk,) = files.disks
        assert (files.archive, files.words, disk.serial, disk.writable) == (
            b"",
            ("pvtime.root",),
            "root",
            False,
        )
        assert os.pread(disk.fd, 4, 0) == SQUASHFS
        assert list(cache.iterdir()) == []


def test_without_the_program_it_is_in_memory_and_what_it_takes_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    assert guest_files(GuestOptions(rootfs=root)).disks == ()
    with pytest.raises(
        UsageError, match=r"sqfstar.* not installed \(Debian: apt install squashfs-tools\).* give --memory"
    ):
        guest_files(GuestOptions(rootfs=root, memory=64 << 20))


def test_a_kernel_of_the_users_has_it_in_memory(root: Path) -> None:
    assert guest_files(GuestOptions(rootfs=root, kernel=Path("Image"))).disks == ()


def test_a_machine_with_a_disk_is_not_saved_and_closes_it(tmp_path: Path) -> None:
    (tmp_path / "share").mkdir()
    files = guest_files(GuestOptions(share=tmp_path / "share"))
    machine = Machine(configure(), lambda _: None, lambda _: None, files.disks)
    for refuse in (machine.refuse_unsavable, machine.state):
        with pytest.raises(EngineError, match=r"a shared directory\) cannot be saved or moved"):
            refuse()
    machine.close()
    assert files.disks[0].file.closed


@pytest.mark.parametrize(("size", "blocks"), [(1000, 1), (100_000, 2)])
def test_the_guest_is_told_how_much_of_the_disk_it_must_read(tmp_path: Path, size: int, blocks: int) -> None:
    # It read all of the disk before, which took the embedded engine 5 s.
    (tmp_path / "file").write_bytes(bytes(size))
    files = guest_files(GuestOptions(share=tmp_path))
    assert files.words == (f"pvtime.share={blocks}",)
    files.close()


def test_files_that_the_guests_memory_cannot_hold_are_refused(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(24 << 20)
    with pytest.raises(UsageError, match="give --memory 145M"):
        guest_files(GuestOptions(share=tmp_path, memory=128 << 20))
