# SPDX-License-Identifier: GPL-2.0-or-later
"""A user's root file system: what of a directory or a tar comes into the guest, and what is refused."""

from __future__ import annotations

import io
import os
import random
import socket
import subprocess
import tarfile
from pathlib import Path

import pytest

from pvtime.errors import UsageError
from pvtime.run.guest_files import guest_files
from pvtime.run.options import GuestOptions
from pvtime.userland import cpio
from pvtime.userland.rootfs import rootfs_archive

TREE = [
    cpio.directory("rootfs"),
    cpio.directory("rootfs/bin", 0o755),
    cpio.symlink("rootfs/link", "/bin/tool"),
    cpio.fifo("rootfs/pipe", 0o600),
    cpio.regular("rootfs/bin/tool", b"\x7fELF", 0o4755),
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a directory with a file of each kind."""
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True, mode=0o755)
    (root / "bin" / "tool").write_bytes(b"\x7fELF")
    (root / "bin" / "tool").chmod(0o4755)
    (root / "link").symlink_to("/bin/tool")
    os.mkfifo(root / "pipe", 0o600)
    with socket.socket(socket.AF_UNIX) as left_out:
        left_out.bind(str(root / "socket"))
    return root


def test_a_directory_comes_as_it_is_and_no_link_is_followed(tree: Path) -> None:
    assert rootfs_archive(tree) == cpio.archive(TREE)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_a_tar_is_the_same_as_its_directory(tree: Path, mode: str) -> None:
    path = tree.parent / "root.tar"
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name in ("bin", "link", "pipe", "bin/tool"):
            tar.add(tree / name, f"./{name}", recursive=False)
        device = tarfile.TarInfo("./dev/null")
        device.type = tarfile.CHRTYPE
        tar.addfile(device)
    assert rootfs_archive(path) == cpio.archive([*TREE, cpio.directory("rootfs/dev")])


def written(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    """Write a tar."""
    with tarfile.open(path, "w") as tar:
        for member, data in members:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def test_a_hard_link_has_its_targets_data(tmp_path: Path) -> None:
    link = tarfile.TarInfo("b")
    link.type, link.linkname = tarfile.LNKTYPE, "a"
    path = written(tmp_path / "tar", (tarfile.TarInfo("a"), b"data"), (link, b""))
    assert rootfs_archive(path) == cpio.archive(
        [cpio.directory("rootfs"), *(cpio.regular(f"rootfs/{name}", b"data") for name in "ab")]
    )
    link.linkname = "gone"
    with pytest.raises(UsageError, match="b is a link to a file that is not in the tar"):
        rootfs_archive(written(tmp_path / "tar", (link, b"")))


def test_a_hard_link_to_symbolic_links_that_lead_to_each_other_is_refused(tmp_path: Path) -> None:
    # It was a traceback of RecursionError.
    members = []
    for kind, name, target in (("2", "a", "b"), ("2", "b", "a"), ("1", "c", "a")):
        members.append(tarfile.TarInfo(name))
        members[-1].type, members[-1].linkname = kind.encode(), target
    with pytest.raises(UsageError, match="c is a link to a file that is not in the tar"):
        rootfs_archive(written(tmp_path / "tar", *((member, b"") for member in members)))


@pytest.mark.parametrize("name", ["../init", "a/../../init", "/../init", "./.."])
def test_a_file_outside_of_the_root_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="outside of its root"):
        rootfs_archive(written(tmp_path / "tar", (tarfile.TarInfo(name), b"")))


def test_what_is_neither_is_refused(tmp_path: Path) -> None:
    for name, data in (("text", b"no tar"), ("empty", b""), ("cut", b"\x1f\x8b\x08\x00half")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UsageError, match="neither a directory nor a whole tar"):
            rootfs_archive(tmp_path / name)
    with pytest.raises(UsageError, match="No such file"):
        rootfs_archive(tmp_path / "gone")


def test_a_file_that_is_larger_than_any_guest_is_refused_before_it_is_read(tmp_path: Path) -> None:
    # Of a bomb 4 GiB were unpacked into the host's memory first, of a sparse file all.
    (tmp_path / "root").mkdir()
    with (tmp_path / "root" / "sparse").open("wb") as sparse:
        sparse.truncate(1 << 40)
    member = tarfile.TarInfo("bomb")
    member.size = 1 << 40
    (tmp_path / "tar").write_bytes(member.tobuf() + bytes(1024))
    for name in "root", "tar":
        with pytest.raises(UsageError, match="is larger than 4 GiB: it must fit into the guest's memory"):
            rootfs_archive(tmp_path / name)


def test_a_damaged_tar_is_refused_without_a_word_of_pythons(tmp_path: Path) -> None:
    member = tarfile.TarInfo("a")
    member.size = 1
    sparse = {"major": "1", "minor": "0", "realsize": "1"}
    member.pax_headers = {f"GNU.sparse.{key}": value for key, value in sparse.items()}
    with tarfile.open(tmp_path / "tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(member, io.BytesIO(b"x"))
    with pytest.raises(UsageError, match=r"neither a directory nor a whole tar: make it again$"):
        rootfs_archive(tmp_path / "tar")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_that_was_damaged_anywhere_is_refused_or_read(mode: str, tmp_path: Path) -> None:
    # zlib's and lzma's errors, of 189 in 1200, were tracebacks.
    chance = random.Random(61)
    member, data = tarfile.TarInfo("a"), chance.randbytes(20_000) + bytes(20_000)
    member.size = len(data)
    path = tmp_path / "tar"
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        tar.addfile(member, io.BytesIO(data))
    good, refused = path.read_bytes(), 0
    for _ in range(300):
        damaged = bytearray(good)
        for _ in range(chance.choice([1, 3])):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            rootfs_archive(path)
        except UsageError:
            refused += 1
    assert refused


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_a_root_is_a_directory_or_a_regular_file(device: str) -> None:
    with pytest.raises(UsageError, match="it is not a regular file"):
        rootfs_archive(Path(device))


def test_one_that_the_guests_memory_cannot_hold_is_refused_with_the_memory_that_can(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(16 << 20))
    with pytest.raises(UsageError, match="give --memory 129M"):
        guest_files(GuestOptions(kernel=tmp_path, rootfs=tmp_path, memory=128 << 20))
    files = guest_files(GuestOptions(kernel=tmp_path, rootfs=tmp_path, memory=129 << 20))
    assert len(files.archive) > 16 << 20


def test_another_program_lists_the_same(tree: Path) -> None:
    done = subprocess.run(
        ["cpio", "-t", "--quiet"], input=rootfs_archive(tree), capture_output=True, check=True
    )
    assert done.stdout.decode().split() == [entry.name for entry in TREE]
