# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading of the user's kernel and initrd: unpacked, checked, or refused in one line."""

from __future__ import annotations

import ctypes
import stat
import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Final, TypeVar

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
from pvtime.machine.image_signatures import TRUNCATED, identify
from pvtime.machine.layout import IPA_END
from pvtime.records import dataclass
from pvtime.schema import Rule, within

__all__ = ["KernelImage", "load_initrd", "load_kernel"]

MAX_FILE: Final = 1 << 30
"""Bytes of a file that is read at all; a kernel is tens of MiB."""

GZIP_MAGIC: Final = b"\x1f\x8b"

GZIP_WBITS: Final = 16 + zlib.MAX_WBITS
"""zlib's code for data with a gzip header."""

MAX_UNPACKED: Final = 512 << 20
"""Bytes of an unpacked kernel; real ones are far smaller. A small file must not fill the host's memory."""

MAX_DICTIONARY: Final = 256 << 20
"""Bytes of memory for an xz dictionary; the kernel's own scripts/xz_wrap.sh asks for at most 128 MiB."""

LEGACY_BSS: Final = 16 << 20
"""Bytes left free behind a kernel that does not say how much it needs."""

INSTRUCTION: Final = 4
"""Bytes of an instruction, and its alignment: the first one is at text_offset."""

S = TypeVar("S", bound=ctypes.Structure)

_PAGE_SIZES: Final = (4096, 16384, 65536)


@dataclass(frozen=True)
class KernelImage:
    """An Image as it goes into memory."""

    data: bytes
    text_offset: Annotated[int, within(0, IPA_END, INSTRUCTION)]
    """Bytes from a 2 MiB aligned base to the first byte."""
    image_size: Annotated[int, within(0, IPA_END)]
    """Bytes of memory that the kernel needs from its first byte on, BSS included."""
    page_size: Annotated[int, Rule(_PAGE_SIZES.__contains__, "4096, 16384 or 65536")] | None
    """The kernel's page size in bytes; None where the header does not say (before Linux 4.6)."""

    def contradiction(self) -> str | None:
        """Return by which field this is not what the header in its own data says; None: by none.

        Data without a header, as of a bare program, says nothing.
        """
        header = _structure(ImageHeader, self.data, 0)
        if header is None or header.magic != IMAGE_MAGIC:
            return None
        own = _described(self.data, header)
        wrong = (
            field.name for field in fields(self) if getattr(self, field.name) != getattr(own, field.name)
        )
        return next(wrong, None)

    def check_page_size(self, sizes: Collection[int], cpu: str) -> None:
        """Check that the kernel's page size is one of ``cpu``'s. Without it a kernel stops silently.

        (arch/arm64/kernel/head.S: ``__no_granule_support`` parks the CPU before there is a console.)

        :raises GuestImageError: it is not.
        """
        if self.page_size is not None and self.page_size not in sizes:
            supported = " and ".join(f"{size >> 10}K" for size in sorted(sizes))
            raise GuestImageError(
                f"the kernel uses {self.page_size >> 10}K pages, but {cpu} has only {supported}: "
                "give a kernel built for one of these (Debian's for 16K have -16k in their names)"
            )


def _read(path: Path, what: str) -> bytes:
    """Return a regular, non-empty file's bytes."""
    try:
        status = path.stat()
        mode = status.st_mode
        if stat.S_ISDIR(mode):
            raise GuestImageError(f"{what} {path} is a directory: give a file")
        if not stat.S_ISREG(mode):
            raise GuestImageError(f"{what} {path} is not a regular file: give one")
        if not status.st_size:  # a file of /proc has no size either, and /proc/kmsg waits at its end
            raise GuestImageError(f"{what} {path} is empty: fetch or build it again")
        with path.open("rb") as file:
            data = file.read(min(status.st_size, MAX_FILE) + 1)  # read() allocates what it is asked for
    except FileNotFoundError:
        raise GuestImageError(f"{what} {path} does not exist: check the path") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise GuestImageError(f"{what} {path} cannot be read: {reason}") from error
    if len(data) > MAX_FILE:
        raise GuestImageError(f"{what} {path} is larger than {MAX_FILE >> 20}M: is it the right file?")
    return data


def _structure(kind: type[S], data: bytes, offset: int) -> S | None:
    """Return the structure at ``offset``, or None where the data ends before it does."""
    if offset + ctypes.sizeof(kind) > len(data):
        return None
    return kind.from_buffer_copy(data, offset)


def _truncated(path: Path) -> GuestImageError:
    return GuestImageError(f"kernel {path} is {TRUNCATED}")


class _UnpackError(Exception):
    """Damaged, truncated, or too large; the message says which and what to do."""


def _finished(name: str, data: bytes, eof: bool, limit: int) -> bytes:
    if len(data) > limit:
        raise _UnpackError(f"unpacks to more than {limit >> 20}M: no kernel does")
    if not eof:
        raise _UnpackError(f"the {name} data is truncated: fetch or copy it again")
    return data


def _gunzip(data: bytes, limit: int) -> bytes:
    unpacker = zlib.decompressobj(wbits=GZIP_WBITS)
    try:
        unpacked = unpacker.decompress(data, limit + 1)
    except zlib.error as error:
        raise _UnpackError(f"the gzip data is damaged: fetch or copy it again ({error})") from error
    return _finished("gzip", unpacked, unpacker.eof, limit)


def _unlzma(data: bytes, limit: int) -> bytes:
    import lzma  # no stock kernel is packed so

    unpacker = lzma.LZMADecompressor(memlimit=MAX_DICTIONARY)
    try:
        unpacked = unpacker.decompress(data, limit + 1)
    except lzma.LZMAError as error:
        raise _UnpackError(f"the xz data is damaged: fetch or copy it again ({error})") from error
    return _finished("xz", unpacked, unpacker.eof, limit)


UNPACKERS: Final[Mapping[str, Callable[[bytes, int], bytes]]] = {
    "gzip": _gunzip,
    "lzma": _unlzma,
    "xzkern": _unlzma,
}
"""By the names in an EFI zboot header (the kernel's scripts/Makefile.lib)."""


def _unpack(path: Path, name: str, data: bytes, limit: int) -> bytes:
    try:
        return UNPACKERS[name](data, limit)
    except _UnpackError as error:
        raise GuestImageError(f"kernel {path}: {error}") from error


def _unwrap_zboot(path: Path, data: bytes, limit: int) -> bytes:
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
    return _unpack(path, name, data[start : start + size], limit)


def _file_extent(data: bytes, pe_offset: int) -> int:
    """Return the length that the file must have by the PE header of its EFI stub; 0 without one.

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


def load_kernel(path: Path, max_unpacked: int = MAX_UNPACKED) -> KernelImage:
    """Read an arm64 Image: raw, compressed with gzip, or in an EFI zboot image.

    :param max_unpacked: bytes; a larger one is refused.
    :raises GuestImageError: the file cannot be read, is damaged, or is something else; the message names it.
    """
    data = _read(path, "kernel")
    if data[:2] == GZIP_MAGIC:
        data = _unpack(path, "gzip", data, max_unpacked)
    if data[:2] == MZ and data[4:8] == ZBOOT_MAGIC:
        data = _unwrap_zboot(path, data, max_unpacked)
    header = _structure(ImageHeader, data, 0)
    if header is None or header.magic != IMAGE_MAGIC:
        raise GuestImageError(f"kernel {path} is {identify(data)}")
    flags = ImageFlags(header.flags)
    if flags.big_endian:
        raise GuestImageError(f"kernel {path} is big-endian: give a little-endian arm64 Image")
    if bytes(header.code[:2]) == MZ and _file_extent(data, header.pe_offset) > len(data):
        raise _truncated(path)
    if max(header.image_size, header.text_offset) > max_unpacked or header.text_offset % INSTRUCTION:
        raise GuestImageError(f"kernel {path} has a damaged header: fetch or copy it again")
    return _described(data, header)


def _described(data: bytes, header: ImageHeader) -> KernelImage:
    """Return an Image as its header describes it."""
    page_size = (None, *_PAGE_SIZES)[ImageFlags(header.flags).page_size]
    if header.image_size == 0:
        return KernelImage(data, LEGACY_TEXT_OFFSET, len(data) + LEGACY_BSS, page_size)
    return KernelImage(data, header.text_offset, max(header.image_size, len(data)), page_size)


def load_initrd(path: Path) -> bytes:
    """Read an initrd; its contents are the guest kernel's business.

    :raises GuestImageError: the file cannot be read or is empty.
    """
    return _read(path, "initrd")
