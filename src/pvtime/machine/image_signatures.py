# SPDX-License-Identifier: GPL-2.0-or-later
"""Identification of files that are not arm64 Images, for error messages."""

from __future__ import annotations

import ctypes
import struct
from typing import Final

from pvtime.abi.image import MZ, ImageHeader

__all__ = ["TRUNCATED", "identify"]

TRUNCATED: Final = "truncated: fetch or copy it again"
GIVE: Final = "give an arm64 Image"

ELF_MAGIC: Final = b"\x7fELF"
ELF_BIG_ENDIAN: Final = 2
ELF_MACHINE_OFFSET: Final = 18
ELF_ARM64: Final = 183
ELF_MACHINES: Final = {3: "x86", 40: "32-bit ARM", 62: "x86-64", 243: "RISC-V", 258: "LoongArch"}
"""From the kernel's include/uapi/linux/elf-em.h."""

SIGNATURES: Final = (
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
    (0, b"070701", "an initramfs: give it as the initrd"),
)
"""Offset, magic, message."""


def identify(data: bytes) -> str:
    """Return the end of a sentence "kernel X is ..." about a file that is not an arm64 Image."""
    if data.startswith(ELF_MAGIC) and len(data) >= ELF_MACHINE_OFFSET + 2:
        return _identify_elf(data)
    for offset, magic, sentence in SIGNATURES:
        if data.startswith(magic, offset):
            return sentence
    if len(data) < ctypes.sizeof(ImageHeader):
        return TRUNCATED
    if data.startswith(MZ):
        return f"an EFI program that is no arm64 kernel: {GIVE}"
    return f"not a kernel of a known kind: {GIVE}"


def _identify_elf(data: bytes) -> str:
    order = ">" if data[5] == ELF_BIG_ENDIAN else "<"
    (machine,) = struct.unpack_from(order + "H", data, ELF_MACHINE_OFFSET)
    if machine == ELF_ARM64:
        return "an ELF file: for a vmlinux, give arch/arm64/boot/Image of the same build"
    return f"an ELF file for {ELF_MACHINES.get(machine, f'machine {machine}')}: {GIVE}"
