# SPDX-License-Identifier: GPL-2.0-or-later
"""The image: its bytes are the source's, and both sides know the same checks and lines."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from importlib import resources
from pathlib import Path

import pytest

from pvtime.judge.choice import GROWTH_NEEDS, IMAGE_CHECKS, image_choice
from pvtime.judge.console import MAX_CPUS
from pvtime.judge.image_file import OPTIONS_SIZE, judge_image, judge_kernel

TOOL = Path(__file__).parents[3] / "tools" / "build-judge"
COMPILER = "aarch64-linux-gnu-gcc"
SOURCES = resources.files("pvtime.judge") / "image"
LIMIT = 128 << 10


def test_the_packaged_image_is_what_the_sources_give(tmp_path: Path) -> None:
    if shutil.which(COMPILER) is None:
        pytest.skip(f"{COMPILER} is missing: install gcc-aarch64-linux-gnu")
    subprocess.run([TOOL, tmp_path], check=True)
    packaged = (SOURCES / "judge.cc").read_text()
    if (tmp_path / "judge.cc").read_text() != packaged:
        pytest.skip(f"another compiler gives other bytes: the image's was {packaged.strip()}")
    assert (tmp_path / "judge.bin").read_bytes() == judge_image()


def test_it_is_small_and_goes_anywhere_in_memory() -> None:
    assert len(judge_image()) < LIMIT
    kernel = judge_kernel()
    assert kernel.text_offset == 0
    assert kernel.image_size >= len(judge_image())
    flags = int.from_bytes(judge_image()[24:32], "little")
    assert flags == 0b1010, "little-endian, 4 KiB pages, anywhere"


@pytest.mark.parametrize(("name", "limit"), [("MAX_CPUS", MAX_CPUS), ("OPTIONS_SIZE", OPTIONS_SIZE)])
def test_both_sides_have_the_same_limit(name: str, limit: int) -> None:
    layout = (SOURCES / "layout.h").read_text()
    match = re.search(rf"{name} (\d+)", layout)
    assert match is not None
    assert int(match[1]) == limit


def test_both_sides_have_the_same_checks() -> None:
    text = (SOURCES / "checks.c").read_text()
    table = text[text.index("static const struct check checks[]") :]
    assert tuple(re.findall(r'^\t\{ "(\w+)", ', table, re.MULTILINE)) == IMAGE_CHECKS
    assert set(GROWTH_NEEDS) < set(IMAGE_CHECKS)


def test_all_options_fit() -> None:
    judge_image(f"seconds=3600 wait=10 reset {image_choice(frozenset(IMAGE_CHECKS))}")


def test_options_are_written_behind_the_header_and_nothing_else_is() -> None:
    plain, image = judge_image(), judge_image("seconds=1 reset")
    assert plain[64 : 64 + OPTIONS_SIZE] == bytes(OPTIONS_SIZE)
    assert image[64:80] == b"seconds=1 reset\0"
    assert image[:64] + plain[64:80] + image[80:] == plain
    with pytest.raises(ValueError, match=f"{OPTIONS_SIZE} bytes"):
        judge_image("x" * OPTIONS_SIZE)


def test_it_is_an_efi_application_too() -> None:
    image, (pe,) = judge_image(), struct.unpack_from("<I", judge_image(), 60)
    assert image[:2] == b"MZ"
    assert image[pe : pe + 4] == b"PE\0\0"
    machine, sections = struct.unpack_from("<HH", image, pe + 4)
    assert (machine, sections) == (0xAA64, 1)
    (optional_size,) = struct.unpack_from("<H", image, pe + 20)
    optional = pe + 24
    (magic,) = struct.unpack_from("<H", image, optional)
    entry, size, headers = (struct.unpack_from("<I", image, optional + at)[0] for at in (16, 56, 60))
    (subsystem,) = struct.unpack_from("<H", image, optional + 68)
    assert (magic, subsystem) == (0x20B, 10), "PE32+, an EFI application"
    assert size == judge_kernel().image_size
    in_memory, at, in_file, offset = struct.unpack_from("<4I", image, optional + optional_size + 8)
    # All behind the headers is in the one section, and in the file.
    assert at == offset == headers
    assert at + in_memory == size
    assert offset + in_file == len(image)
    assert at <= entry < at + in_file
    # A branch, to where the entry is written.
    assert struct.unpack_from("<I", image, entry)[0] >> 26 == 0b000101
