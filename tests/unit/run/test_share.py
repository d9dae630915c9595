# SPDX-License-Identifier: GPL-2.0-or-later
"""The directory that host and guest share: what goes in and comes out, and what a hostile guest cannot do."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvtime.errors import GuestCommandError, UsageError
from pvtime.run.share import Share

SIZE = 1 << 20


class Shared:
    """A directory beside a file that is none of the guest's business, and the disk with its files."""

    def __init__(self, tmp_path: Path) -> None:
        self.outside = tmp_path / "outside"
        self.outside.mkdir()
        (self.outside / "secret").write_text("untouched")
        self.path = tmp_path / "shared"
        (self.path / "d").mkdir(parents=True)
        (self.path / "kept").write_text("kept")
        (self.path / "d" / "deep").write_text("deep")
        (self.path / "out").symlink_to(self.outside)
        (self.path / "link").symlink_to(self.outside / "secret")
        self.file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (closed by the fixture)
        self.share = Share(self.path, self.file, SIZE)

    def guest_writes(self, *members: tarfile.TarInfo, data: bytes = b"new") -> list[str]:
        """Have the guest write a tar in which each plain file holds ``data``, and collect it."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for member in members:
                member.size = len(data) if member.isreg() else 0
                tar.addfile(member, io.BytesIO(data))
        return self.disk_holds(buffer.getvalue())

    def disk_holds(self, data: bytes) -> list[str]:
        """Have the disk hold these bytes, and collect them."""
        self.file.seek(0)
        self.file.write(data)
        return self.share.collect()

    def tree(self) -> dict[str, str]:
        """Return each file's path and contents; of a link its target."""
        paths = sorted(path for path in self.path.rglob("*") if path.is_symlink() or path.is_file())
        return {
            str(path.relative_to(self.path)): os.readlink(path) if path.is_symlink() else path.read_text()
            for path in paths
        }


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Shared]:
    """Return a directory that is shared."""
    shared = Shared(tmp_path)
    yield shared
    assert [path.name for path in shared.outside.iterdir()] == ["secret"]
    assert (shared.outside / "secret").read_text() == "untouched"
    assert not list(shared.path.rglob(".pvtime-*")), "a partial file was left behind"
    shared.file.close()


def file(name: str, mode: int = 0o644, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    """Return the head of a file in a tar."""
    member = tarfile.TarInfo(name)
    member.mode, member.type, member.linkname = mode, kind, target
    return member


def test_the_guest_gets_the_files_and_links_as_they_are(shared: Shared) -> None:
    shared.file.seek(0)
    with tarfile.open(fileobj=shared.file) as tar:
        members = {member.name: member for member in tar}
        assert sorted(members) == ["d", "d/deep", "kept", "link", "out"]
        content = tar.extractfile("d/deep")
        assert content is not None
        assert content.read() == b"deep"
    assert members["link"].linkname == str(shared.outside / "secret")
    assert {member.uid for member in members.values()} == {0}
    assert os.fstat(shared.file.fileno()).st_size == SIZE


def test_what_the_guest_changed_or_made_comes_out_and_nothing_is_deleted(shared: Shared) -> None:
    before = shared.tree()
    notes = shared.guest_writes(
        file("."), file("./kept", 0o4755), file("./n", kind=tarfile.DIRTYPE), file("./n/new")
    )
    assert notes == []
    assert shared.tree() == {**before, "kept": "new", "n/new": "new"}
    assert (shared.path / "kept").stat().st_mode & 0o7777 == 0o755, "no right of the owner's is lent"


def test_a_file_that_the_guest_left_alone_is_left_alone_whatever_has_become_of_it_here(
    shared: Shared,
) -> None:
    (shared.path / "kept").chmod(0o644)
    (shared.path / "kept").write_text("changed here meanwhile")
    shared.guest_writes(file("kept", 0o644), data=b"kept")
    assert shared.tree()["kept"] == "changed here meanwhile"
    shared.guest_writes(file("kept", 0o600), data=b"kept")
    assert shared.tree()["kept"] == "kept", "the guest has changed its mode"


def test_links_and_devices_stay_in_the_guest_and_are_told(shared: Shared) -> None:
    before = shared.tree()
    notes = shared.guest_writes(
        file("link", kind=tarfile.SYMTYPE, target="anywhere"),  # it came from here
        file("a", kind=tarfile.SYMTYPE, target="/etc/shadow"),
        file("b", kind=tarfile.LNKTYPE, target="/etc/shadow"),
        file("c", kind=tarfile.CHRTYPE),
        file("e", kind=tarfile.FIFOTYPE),
    )
    assert notes == ["4 files of the guest's /share stayed there: links and others that are no plain files"]
    assert shared.tree() == before


@pytest.mark.parametrize("name", ["out/secret", "out/new", "link/new", "kept/new", "d"])
def test_no_link_is_followed_and_no_directory_replaced(name: str, shared: Shared) -> None:
    before = shared.tree()
    with pytest.raises(GuestCommandError, match=rf"shared/{name} cannot be written: "):
        shared.guest_writes(file(name))
    assert shared.tree() == before


def test_a_link_here_is_replaced_by_the_guests_file_and_not_written_through(shared: Shared) -> None:
    shared.guest_writes(file("link"))
    assert (shared.path / "link").read_text() == "new"
    assert not (shared.path / "link").is_symlink()


@pytest.mark.parametrize(
    "name", ["../outside/secret", "d/../../x", "/etc/passwd", "a//b", "a/./b", "x" * 256, "d/.."]
)
def test_an_impossible_name_is_refused_before_anything_is_written(name: str, shared: Shared) -> None:
    before = shared.tree()
    with pytest.raises(GuestCommandError, match=r"shared stays as it is: .* impossible name"):
        shared.guest_writes(file("first"), file(name))
    assert shared.tree() == before


def test_a_sparse_file_or_one_that_is_larger_than_the_disk_is_refused(shared: Shared) -> None:
    huge = file("huge")
    huge.size = 1 << 40
    sparse = file("sparse")
    sparse.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.size": str(1 << 40),
        "GNU.sparse.numblocks": "0",
    }
    for head in (huge.tobuf(), sparse.tobuf(tarfile.PAX_FORMAT)):
        with pytest.raises(GuestCommandError, match=r"impossible size|no whole tar"):
            shared.disk_holds(head + bytes(1024))


def test_more_files_than_are_possible_are_refused(shared: Shared) -> None:
    shared.share = Share(shared.path, shared.file, SIZE, max_files=50)
    heads = file("again").tobuf() * 52
    with pytest.raises(GuestCommandError, match="has more than 50 files"):
        shared.disk_holds(heads + bytes(1024))


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=600), st.integers(0, 3000))
def test_any_bytes_on_the_disk_are_refused_or_read(data: bytes, at: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "kept").write_text("kept")
        with tempfile.TemporaryFile(buffering=0) as disk:
            share = Share(Path(name), disk, SIZE)
            disk.seek(at)
            disk.write(data)
            with contextlib.suppress(GuestCommandError):
                share.collect()
        assert (Path(name) / "kept").exists()


def test_a_directory_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    with tempfile.TemporaryFile(buffering=0) as disk:
        with pytest.raises(UsageError, match="gone: No such file"):
            Share(tmp_path / "gone", disk, SIZE)
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(UsageError, match="has more than 0 files"):
            Share(tmp_path, disk, SIZE, max_files=0)
        with pytest.raises(UsageError, match="file: Not a directory"):
            Share(tmp_path / "file", disk, SIZE)
        with (tmp_path / "sparse").open("wb") as sparse:
            sparse.truncate(1 << 40)
        with pytest.raises(UsageError, match="larger than --share-size, 1M: give a larger one"):
            Share(tmp_path, disk, SIZE)
