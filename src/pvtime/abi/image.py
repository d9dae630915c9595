# SPDX-License-Identifier: GPL-2.0-or-later
"""The files that an arm64 kernel comes in.

Sources: the kernel's Documentation/arm64/booting.rst (Image),
drivers/firmware/efi/libstub/zboot-header.S (EFI zboot), include/linux/pe.h (PE/COFF).
"""

from __future__ import annotations

import ctypes
from typing import Final

from pvtime.abi.layout import Field, Register

__all__ = [
    "IMAGE_MAGIC",
    "KERNEL_ALIGN",
    "LEGACY_TEXT_OFFSET",
    "MZ",
    "PE_MAGIC",
    "ZBOOT_MAGIC",
    "ImageFlags",
    "ImageHeader",
    "PeHeader",
    "PeSection",
    "ZbootHeader",
]

MZ: Final = b"MZ"
PE_MAGIC: Final = b"PE"
"""And two zeros, which a ctypes character array leaves out."""
IMAGE_MAGIC: Final = b"ARM\x64"
ZBOOT_MAGIC: Final = b"zimg"

KERNEL_ALIGN: Final = 2 << 20
"""Bytes; the Image goes ``text_offset`` bytes behind an address with this alignment."""

LEGACY_TEXT_OFFSET: Final = 0x8_0000
"""``text_offset`` of a kernel before 3.17, which says ``image_size`` 0."""


class ImageFlags(Register):
    """Informative flags of an Image."""

    anywhere = Field(3)
    """The kernel may be anywhere in memory, not only near its start."""
    page_size = Field(2, 1)
    """0 unspecified, 1 4K, 2 16K, 3 64K."""
    big_endian = Field(0)


class ImageHeader(ctypes.LittleEndianStructure):
    """The first 64 bytes of an Image."""

    _pack_ = 1
    _fields_ = (
        ("code", ctypes.c_uint8 * 8),
        ("text_offset", ctypes.c_uint64),
        ("image_size", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("reserved", ctypes.c_uint64 * 3),
        ("magic", ctypes.c_char * 4),
        ("pe_offset", ctypes.c_uint32),
    )


class ZbootHeader(ctypes.LittleEndianStructure):
    """The first 64 bytes of an EFI zboot image: a small EFI program around a compressed Image."""

    _pack_ = 1
    _fields_ = (
        ("mz", ctypes.c_char * 4),
        ("magic", ctypes.c_char * 4),
        ("payload_offset", ctypes.c_uint32),
        ("payload_size", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32 * 2),
        ("compression", ctypes.c_char * 32),
        ("linux_magic", ctypes.c_uint32),
        ("pe_offset", ctypes.c_uint32),
    )


class PeHeader(ctypes.LittleEndianStructure):
    """The PE signature and COFF file header; optional header and section table follow."""

    _pack_ = 1
    _fields_ = (
        ("magic", ctypes.c_char * 4),
        ("machine", ctypes.c_uint16),
        ("sections", ctypes.c_uint16),
        ("timestamp", ctypes.c_uint32),
        ("symbol_table", ctypes.c_uint32),
        ("symbols", ctypes.c_uint32),
        ("optional_header_size", ctypes.c_uint16),
        ("characteristics", ctypes.c_uint16),
    )


class PeSection(ctypes.LittleEndianStructure):
    """An entry of the section table."""

    _pack_ = 1
    _fields_ = (
        ("name", ctypes.c_char * 8),
        ("virtual_size", ctypes.c_uint32),
        ("virtual_address", ctypes.c_uint32),
        ("raw_size", ctypes.c_uint32),
        ("raw_offset", ctypes.c_uint32),
        ("reserved", ctypes.c_uint8 * 12),
        ("characteristics", ctypes.c_uint32),
    )
