# SPDX-License-Identifier: GPL-2.0-or-later
"""Every file given as a kernel or an initrd is read or refused in one line that names it."""

from __future__ import annotations

import ctypes
import gzip
import lzma
import os
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvtime.abi.image import ImageHeader, PeHeader, PeSection, ZbootHeader
from pvtime.errors import GuestImageError
from pvtime.machine.image import load_initrd, load_kernel

MIB = 1 << 20


def image(body: int = 4096, *, image_size: int = 2 * MIB, text_offset: int = 0, flags: int = 0b1010) -> bytes:
    """Return an Image with an EFI stub's headers and one section of ``body`` bytes that ends the file."""
    header = ImageHeader(
        text_offset=text_offset, image_size=image_size, flags=flags, magic=b"ARM\x64", pe_offset=64
    )
    header.code[:2] = b"MZ"
    pe = PeHeader(magic=b"PE", machine=0xAA64, sections=1, optional_header_size=160)
    start = ctypes.sizeof(header) + ctypes.sizeof(pe) + 160 + ctypes.sizeof(PeSection)
    section = PeSection(name=b".text", raw_size=body, raw_offset=start)
    return bytes(header) + bytes(pe) + bytes(160) + bytes(section) + b"\xd5" * body


def zboot(payload: bytes, compression: bytes) -> bytes:
    header = ZbootHeader(
        mz=b"MZ", magic=b"zimg", payload_offset=64, payload_size=len(payload), compression=compression
    )
    return bytes(header) + payload


def save(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "Image"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "wrap",
    [
        bytes,
        gzip.compress,
        lambda data: zboot(gzip.compress(data), b"gzip"),
        lambda data: zboot(lzma.compress(data) + struct.pack("<I", len(data)), b"xzkern"),
        lambda data: zboot(lzma.compress(data, format=lzma.FORMAT_ALONE), b"lzma"),
        lambda data: gzip.compress(zboot(gzip.compress(data), b"gzip")),
    ],
    ids=["raw", "gzip", "zboot-gzip", "zboot-xz", "zboot-lzma", "gzip-zboot-gzip"],
)
def test_an_image_is_read_however_wrapped(tmp_path: Path, wrap: Callable[[bytes], bytes]) -> None:
    kernel = load_kernel(save(tmp_path, wrap(image(text_offset=0x8_0000))))
    assert kernel.data == image(text_offset=0x8_0000)
    assert (kernel.text_offset, kernel.image_size, kernel.page_size) == (0x8_0000, 2 * MIB, 4096)


def test_a_kernel_from_before_image_size_gets_room_for_bss(tmp_path: Path) -> None:
    kernel = load_kernel(save(tmp_path, image(image_size=0, flags=0)))
    assert kernel.text_offset == 0x8_0000
    assert kernel.image_size > len(kernel.data)
    assert kernel.page_size is None


def test_an_image_without_efi_stub_is_read(tmp_path: Path) -> None:
    header = ImageHeader(image_size=MIB, magic=b"ARM\x64")
    assert load_kernel(save(tmp_path, bytes(header) + bytes(100))).image_size == MIB


def elf(machine: int, big_endian: bool = False) -> bytes:
    order = ">" if big_endian else "<"
    return (
        b"\x7fELF\x02"
        + bytes([1 + big_endian])
        + bytes(10)
        + struct.pack(order + "HH", 2, machine)
        + bytes(64)
    )


OTHERS = {
    "empty": (b"", "is empty"),
    "shorter than a header": (image()[:60], "is truncated"),
    "cut in the headers": (image()[:70], "is truncated"),
    "cut in the section table": (image()[:260], "is truncated"),
    "cut in a section": (image()[:-1], "is truncated"),
    "cut gzip": (gzip.compress(image())[:-9], "gzip data is truncated"),
    "damaged gzip": (b"\x1f\x8b\x08" + bytes(64), "gzip data is"),
    "cut zboot": (zboot(gzip.compress(image()), b"gzip")[:-1], "is truncated"),
    "cut zboot payload": (zboot(gzip.compress(image())[:-1], b"gzip"), "gzip data is truncated"),
    "zboot header only": (zboot(b"", b"gzip")[:40], "is truncated"),
    "damaged xz in zboot": (zboot(b"xz?" * 30, b"xzkern"), "xz data is damaged"),
    "zstd in zboot": (
        zboot(bytes(9), b"zstd22"),
        r"compressed with zstd: .* \| head -c 9 \| zstd -d > Image",
    ),
    "odd compression in zboot": (zboot(bytes(9), b"$(rm)"), "damaged"),
    "big-endian": (image(flags=0b1011), "big-endian"),
    "absurd size": (image(image_size=1 << 63), "damaged header"),
    "x86 bzImage": (b"MZ" + bytes(0x200) + b"HdrS" + bytes(99), "x86 kernel"),
    "32-bit ARM zImage": (bytes(0x24) + struct.pack("<I", 0x016F2818) + bytes(99), "32-bit ARM"),
    "RISC-V": (bytes(56) + b"RSC\x05" + bytes(99), "RISC-V"),
    "vmlinux": (elf(183), "arch/arm64/boot/Image"),
    "x86 ELF": (elf(62), "x86-64"),
    "s390 ELF": (elf(22, big_endian=True), "machine 22"),
    "another EFI program": (b"MZ" + bytes(510), "EFI program"),
    "xz": (lzma.compress(image()), "compressed with xz: unpack"),
    "text": (b"vmlinuz\n" * 99, "not a kernel"),
}


@pytest.mark.parametrize(("data", "says"), OTHERS.values(), ids=OTHERS.keys())
def test_what_is_no_arm64_image_is_refused(tmp_path: Path, data: bytes, says: str) -> None:
    path = save(tmp_path, data)
    with pytest.raises(GuestImageError, match=says) as refusal:
        load_kernel(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("load", [load_kernel, load_initrd])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, load: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").touch()
    for name, says in {
        "none": "does not exist",
        ".": "is a directory",
        "fifo": "not a regular file",
        "empty": "is empty",
        "empty/below": "cannot be read: Not a directory",
        "a\0b": "cannot be read",
    }.items():
        with pytest.raises(GuestImageError, match=says):
            load(tmp_path / name)


def test_an_initrd_is_read_as_it_is(tmp_path: Path) -> None:
    assert load_initrd(save(tmp_path, b"070701 anything")) == b"070701 anything"


def test_a_gzip_bomb_is_refused(tmp_path: Path) -> None:
    for data in (gzip.compress(bytes(4 * MIB)), zboot(lzma.compress(bytes(4 * MIB)), b"xzkern")):
        with pytest.raises(GuestImageError, match="more than 1M"):
            load_kernel(save(tmp_path, data), max_unpacked=MIB)


@pytest.mark.parametrize(("flags", "size"), [(0, None), (0b010, 4096), (0b100, 16384), (0b110, 65536)])
def test_a_page_size_that_the_cpu_lacks_is_refused_by_name(
    tmp_path: Path, flags: int, size: int | None
) -> None:
    kernel = load_kernel(save(tmp_path, image(flags=flags)))
    assert kernel.page_size == size
    kernel.check_page_size({4096, 16384, 65536}, "any CPU")
    if size is None:
        kernel.check_page_size({65536}, "a CPU that may do, as far as is known")
    else:
        others = {4096, 16384, 65536} - {size}
        with pytest.raises(GuestImageError, match=rf"uses {size >> 10}K pages, but it has only .*K and .*K:"):
            kernel.check_page_size(others, "it")


def test_a_kernel_that_would_begin_within_an_instruction_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GuestImageError, match="has a damaged header"):
        load_kernel(save(tmp_path, image(text_offset=0x8_0001)))


def _mangled() -> st.SearchStrategy[bytes]:
    """Files that begin as kernels do, then differ in a few bytes, or end early."""
    starts = st.sampled_from(
        [image(256), gzip.compress(image(256)), zboot(gzip.compress(image(256)), b"gzip"), elf(183), b""]
    )
    changes = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=8)

    def mangle(start: bytes, changes: list[tuple[int, int]], length: int, tail: bytes) -> bytes:
        data = bytearray(start)
        for offset, value in changes:
            if offset < len(data):
                data[offset] = value
        return bytes(data[:length]) + tail

    return st.builds(mangle, starts, changes, st.integers(0, 800), st.binary(max_size=64))


@settings(deadline=None, max_examples=300)
@given(data=_mangled() | st.binary(max_size=1024))
def test_any_bytes_are_an_image_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / f"fuzz-{zlib.crc32(data):x}"
    path.write_bytes(data)
    with suppress(GuestImageError):
        kernel = load_kernel(path)
        assert len(kernel.data) <= kernel.image_size
        assert kernel.contradiction() is None
    path.unlink()
