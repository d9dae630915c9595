# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels and initrds as the user has them: read, unpacked, checked, or refused in one line."""

from __future__ import annotations

import ctypes
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from pvtime.abi.image import (
    IMAGE_MAGIC,
    LEGACY_TEXT_OFFSET,
    MZ,
    PE_MAGIC,
    ZBOOT_MAGIC,
    ImageFlags,
    ImageHeader,
    PeHeader,
    PeSection,
    ZbootHeader,
)
from pvtime.errors import GuestImageError
from pvtime.machine.unpack import GZIP_MAGIC, MAX_UNPACKED, UNPACKERS, UnpackError

__all__ = ["KernelImage", "load_initrd", "load_kernel"]

MAX_FILE: Final = 1 << 30
"""Bytes of a file that is read at all; a kernel is tens of MiB."""

LEGACY_BSS: Final = 16 << 20
"""Bytes left free behind a kernel that does not say how much it needs."""

GIVE: Final = "give an arm64 Image"

ELF_ARM64: Final = 183
ELF_MACHINES: Final = {3: "x86", 40: "32-bit ARM", 62: "x86-64", 243: "RISC-V", 258: "LoongArch"}

OTHERS: Final = (
    (0x202, b"HdrS", f"an x86 kernel (bzImage): {GIVE}"),
    (0x24, b"\x18\x28\x6f\x01", f"a 32-bit ARM kernel (zImage): {GIVE}"),
    (56, b"RSC\x05", f"a RISC-V kernel: {GIVE}"),
    (0, b"\x27\x05\x19\x56", f"a U-Boot uImage: {GIVE}"),
    (0, b"\xd0\x0d\xfe\xed", f"a device tree or FIT image: {GIVE}"),
    (0, b"\xfd7zXZ\0", "compressed with xz: unpack it first (xz -d)"),
    (0, b"BZh", "compressed with bzip2: unpack it first (bzip2 -d)"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it first (zstd -d)"),
    (0, b"\x02\x21\x4c\x18", "compressed with lz4: unpack it first (lz4 -d)"),
    (0, b"!<arch>\n", "a package: give the Image out of it (dpkg-deb -x)"),
    (0, b"070701", "an initramfs: give it with --initrd"),
)
"""What else it may be: offset, magic, what to say."""

S = TypeVar("S", bound=ctypes.Structure)


@dataclass(frozen=True)
class KernelImage:
    """An Image as it goes into memory."""

    data: bytes
    text_offset: int
    """Bytes from a 2 MiB aligned base to the first byte."""
    image_size: int
    """Bytes of memory from the first byte on that the kernel calls its own, BSS included."""
    page_size: int | None
    """The kernel's page size in bytes, where it says so."""


def _read(path: Path, what: str) -> bytes:
    """Return a regular, non-empty file's bytes."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise GuestImageError(f"{what} {path} is a directory: give a file")
        if not stat.S_ISREG(mode):
            raise GuestImageError(f"{what} {path} is not a regular file: give one")
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except FileNotFoundError:
        raise GuestImageError(f"{what} {path} does not exist: check the path") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise GuestImageError(f"{what} {path} cannot be read: {reason}") from error
    if not data:
        raise GuestImageError(f"{what} {path} is empty: fetch or build it again")
    if len(data) > MAX_FILE:
        raise GuestImageError(f"{what} {path} is larger than {MAX_FILE >> 20}M: is it the right file?")
    return data


def _structure(kind: type[S], data: bytes, offset: int) -> S | None:
    """Return the structure at ``offset``, or None where the data ends before it does."""
    if offset + ctypes.sizeof(kind) > len(data):
        return None
    return kind.from_buffer_copy(data, offset)


def _truncated(path: Path) -> GuestImageError:
    return GuestImageError(f"kernel {path} is truncated: fetch or copy it again")


def _unpack(path: Path, name: str, data: bytes) -> bytes:
    try:
        return UNPACKERS[name](data)
    except UnpackError as error:
        raise GuestImageError(f"kernel {path}: {error}") from error


def _unwrap_zboot(path: Path, data: bytes) -> bytes:
    """Return the Image in an EFI zboot image."""
    header = _structure(ZbootHeader, data, 0)
    if header is None:
        raise _truncated(path)
    start, size = header.payload_offset, header.payload_size
    if start + size > len(data):
        raise _truncated(path)
    name = header.compression.decode("ascii", "replace")
    if name not in UNPACKERS:
        tool = "zstd" if name.startswith("zstd") else name
        if not tool.isalnum():
            raise GuestImageError(f"kernel {path}: EFI zboot image, damaged: fetch or copy it again")
        raise GuestImageError(
            f"kernel {path}: EFI zboot image compressed with {tool}: give the Image in it "
            f"(tail -c +{start + 1} FILE | head -c {size} | {tool} -d > Image)"
        )
    return _unpack(path, name, data[start : start + size])


def _file_extent(data: bytes, pe_offset: int) -> int:
    """Return how long the file must be by the PE header of its EFI stub, if it has one.

    ``image_size`` cannot tell: it counts BSS, which is not in the file.
    """
    pe = _structure(PeHeader, data, pe_offset)
    if pe is None:
        return pe_offset + ctypes.sizeof(PeHeader)
    if pe.magic != PE_MAGIC:
        return 0
    table = pe_offset + ctypes.sizeof(PeHeader) + pe.optional_header_size
    extent: int = table + pe.sections * ctypes.sizeof(PeSection)
    for index in range(pe.sections):
        section = _structure(PeSection, data, table + index * ctypes.sizeof(PeSection))
        if section is None:
            break
        extent = max(extent, section.raw_offset + section.raw_size)
    return extent


def _refusal(data: bytes) -> str:
    """Say what a file is that is no arm64 Image."""
    if data[:4] == b"\x7fELF" and len(data) >= 20:
        (number,) = struct.unpack_from("<H" if data[5] != 2 else ">H", data, 18)
        if number == ELF_ARM64:
            return "an ELF file: for a vmlinux, give arch/arm64/boot/Image of the same build"
        return f"an ELF file for {ELF_MACHINES.get(number, f'machine {number}')}: {GIVE}"
    for offset, magic, sentence in OTHERS:
        if data[offset : offset + len(magic)] == magic:
            return sentence
    if data[:2] == MZ:
        return f"an EFI program that is no arm64 kernel: {GIVE}"
    return f"not a kernel that is known here: {GIVE}"


def load_kernel(path: Path) -> KernelImage:
    """Read an arm64 Image: raw, compressed with gzip, or in an EFI zboot image.

    :raises GuestImageError: the file cannot be read, is damaged, or is something else; the message names it.
    """
    data = _read(path, "kernel")
    if data[:2] == GZIP_MAGIC:
        data = _unpack(path, "gzip", data)
    if data[:2] == MZ and data[4:8] == ZBOOT_MAGIC:
        data = _unwrap_zboot(path, data)
    header = _structure(ImageHeader, data, 0)
    if header is None or header.magic != IMAGE_MAGIC:
        refusal = _refusal(data)
        if header is None and refusal.startswith("not a kernel"):
            raise _truncated(path)
        raise GuestImageError(f"kernel {path} is {refusal}")
    flags = ImageFlags(header.flags)
    if flags.big_endian:
        raise GuestImageError(f"kernel {path} is big-endian: give a little-endian arm64 Image")
    if bytes(header.code[:2]) == MZ and _file_extent(data, header.pe_offset) > len(data):
        raise _truncated(path)
    if max(header.image_size, header.text_offset) > MAX_UNPACKED:
        raise GuestImageError(f"kernel {path} has a damaged header: fetch or copy it again")
    page_size = (None, 4096, 16384, 65536)[flags.page_size]
    if header.image_size == 0:
        return KernelImage(data, LEGACY_TEXT_OFFSET, len(data) + LEGACY_BSS, page_size)
    return KernelImage(data, header.text_offset, max(header.image_size, len(data)), page_size)


def load_initrd(path: Path) -> bytes:
    """Read an initrd. Its contents are between the user and the kernel.

    :raises GuestImageError: the file cannot be read or is empty.
    """
    return _read(path, "initrd")
