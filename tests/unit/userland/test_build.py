# SPDX-License-Identifier: GPL-2.0-or-later
"""The stock initramfs and its scripts."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import pvtime.userland.build as build
from pvtime.errors import GuestImageError
from pvtime.userland.build import build_initramfs
from pvtime.userland.protocol import COMMANDS

BUSYBOX = b"\x7fELF\x02\x01\x01" + bytes(11) + b"\xb7\x00" + bytes(100)
INIT = build.HERE.joinpath("init").read_text()


def test_it_holds_what_the_kernel_needs_before_init_runs() -> None:
    archive = build_initramfs(BUSYBOX)
    for name in (b"dev/console", b"bin/busybox", b"bin/sh", b"init"):
        assert b"\0" + name + b"\0" in b"\0" + re.sub(rb"0707010[0-9A-F]{103}", b"\0", archive)
    assert INIT.encode() in archive
    assert BUSYBOX in archive


def test_the_same_busybox_gives_the_same_bytes_from_memory_or_file(tmp_path: Path) -> None:
    file = tmp_path / "busybox"
    file.write_bytes(BUSYBOX)
    assert build_initramfs(file) == build_initramfs(BUSYBOX)


@pytest.mark.parametrize(
    "program",
    [
        b"",
        b"\x7fELF",
        b"#!/bin/sh\n" * 9,
        BUSYBOX.replace(b"\xb7", b"\x3e"),
        BUSYBOX.replace(b"F\x02", b"F\x01"),
    ],
    ids=["empty", "truncated", "script", "x86-64", "32-bit"],
)
def test_a_program_of_another_kind_is_refused(program: bytes) -> None:
    with pytest.raises(GuestImageError, match="not an arm64 program"):
        build_initramfs(program)


def test_a_missing_busybox_is_named(tmp_path: Path) -> None:
    with pytest.raises(GuestImageError, match=r"gone: cannot read busybox: No such file"):
        build_initramfs(tmp_path / "gone")


def test_init_obeys_every_command_of_the_protocol() -> None:
    obey = INIT[INIT.index("obey() {") :].split("esac")[0]
    assert set(re.findall(r"^    ([a-z]+)\)", obey, re.MULTILINE)) == set(COMMANDS)


def test_init_describes_every_word_that_it_reads() -> None:
    head, body = INIT.split("\n/bin/busybox", 1)
    assert set(re.findall(r"pvtime\.\w+", body)) == set(re.findall(r"pvtime\.\w+", head))


@pytest.mark.parametrize("script", ["init", "steal"])
def test_the_shell_can_parse(script: str) -> None:
    shell = shutil.which("dash") or "/bin/sh"
    subprocess.run([shell, "-n", build.HERE / script], check=True)
