# SPDX-License-Identifier: GPL-2.0-or-later
"""The cpio archive that the kernel unpacks as initramfs."""

from __future__ import annotations

import shutil
import stat
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvtime.userland import cpio

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40).filter(
    lambda name: not name.startswith("/") and name != cpio.TRAILER
)
ENTRIES = st.lists(
    st.one_of(
        st.builds(cpio.directory, NAMES),
        st.builds(cpio.regular, NAMES, st.binary(max_size=70), st.sampled_from([0o644, 0o755])),
        st.builds(cpio.symlink, NAMES, st.text("abc/.", min_size=1, max_size=9)),
        st.builds(cpio.char_device, NAMES, st.integers(0, 511), st.integers(0, 2**20 - 1)),
        st.builds(cpio.fifo, NAMES),
    ),
    max_size=8,
)


def parse(archive: bytes) -> list[cpio.CpioEntry]:
    """Read an archive by the kernel's description of the format, checking the alignment on the way."""
    entries: list[cpio.CpioEntry] = []
    at = 0
    while True:
        assert at % 4 == 0
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        _, mode, uid, gid, links, mtime, size, _, _, major, minor, name_size, check = fields
        assert (uid, gid, mtime, check) == (0, 0, 0, 0)
        assert links == (2 if stat.S_ISDIR(mode) else 0 if mode == 0 else 1) or mode == 0
        name = archive[at + 110 : at + 110 + name_size]
        assert name.endswith(b"\0")
        data_at = at + 110 + name_size + (-(110 + name_size) % 4)
        entry = cpio.CpioEntry(name[:-1].decode(), mode, archive[data_at : data_at + size], major, minor)
        at = data_at + size + (-size % 4)
        if entry.name == "TRAILER!!!":
            assert not any(archive[at:])
            return entries
        entries.append(entry)


@given(ENTRIES)
def test_what_is_written_reads_back(entries: list[cpio.CpioEntry]) -> None:
    archive = cpio.archive(entries)
    assert parse(archive) == entries
    assert len(archive) % 512 == 0


@given(ENTRIES)
def test_the_same_entries_give_the_same_bytes(entries: list[cpio.CpioEntry]) -> None:
    assert cpio.archive(entries) == cpio.archive(iter(entries))


@pytest.mark.parametrize("name", ["", "/etc", "a\0b", "TRAILER!!!"])
def test_a_name_that_would_break_the_archive_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        cpio.archive([cpio.directory(name)])


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio(1) is not installed: nothing to compare with")
def test_cpio_lists_what_was_written() -> None:
    archive = cpio.archive(
        [
            cpio.directory("dev"),
            cpio.char_device("dev/console", 5, 1),
            cpio.regular("init", b"#!/bin/sh\n", 0o755),
            cpio.symlink("sh", "busybox"),
        ]
    )
    listed = subprocess.run(["cpio", "-tv", "--quiet"], input=archive, capture_output=True, check=True).stdout
    console, init, link = listed.decode().splitlines()[1:]
    assert console.startswith("crw-------")
    assert "5,   1" in console
    assert init.startswith("-rwxr-xr-x")
    assert link.endswith("sh -> busybox")
