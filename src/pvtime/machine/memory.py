# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest memory: host pages that the guest sees at an IPA. They are anonymous, or a device's."""

from __future__ import annotations

import ctypes
import mmap
import os
from contextlib import suppress
from typing import Final

from pvtime.errors import MORE_MEMORY, GuestMemoryError, UsageError
from pvtime.machine.layout import Region

__all__ = ["MIN_MEMORY", "GuestMemory", "check_memory_size"]

MIB: Final = 1 << 20

MIN_MEMORY: Final = 64 * MIB
"""Bytes. A distribution's kernel occupies 28 MiB with its BSS, and needs about as much again to unpack an
initramfs and to run."""

MAP_NORESERVE: Final = 0x4000
"""From the kernel's include/uapi/asm-generic/mman-common.h; the mmap module has it from Python 3.13 on."""

MAP_FIXED: Final = 0x10
MAP_FAILED: Final = ctypes.c_void_p(-1).value


def check_memory_size(size: int, beside: int = 0) -> None:
    """Check that a guest can have ``size`` bytes of RAM on this host.

    :param beside: bytes that its engine may need as well.
    :raises UsageError: too little to boot in, not a whole number of MiB, or more than the host has.
    """
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size < MIN_MEMORY:
        raise UsageError(f"{size} bytes of memory are too few: give {MIN_MEMORY // MIB}M or more")
    if size % MIB:
        raise UsageError(f"{size} bytes of memory are not a whole number of MiB: give {size // MIB + 1}M")
    if size + beside > host:
        also = f" and {beside // MIB}M for the engine" if beside else ""
        raise UsageError(
            f"{size // MIB}M of memory{also} are more than this host's {host // MIB}M: "
            "the guest needs a larger host, or less memory"
        )


class GuestMemory:
    """``size`` bytes of memory at IPA ``base``. A page costs host memory once it is touched.

    The host is little-endian, as are all that the engines run on, and so is the guest.

    :raises GuestMemoryError: base or size is not a multiple of the host's page, or the host refuses.
    """

    def __init__(self, base: int, size: int, name: str) -> None:
        if size <= 0 or base < 0 or (base | size) % mmap.PAGESIZE:
            raise GuestMemoryError(f"{name}: {size:#x} bytes at {base:#x} are not whole pages")
        self.region = Region(name, base, size)
        self.base = base
        self.size = size
        self.end = base + size
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        try:
            self._map = mmap.mmap(-1, size, flags=flags)
        except (OSError, OverflowError) as error:
            raise GuestMemoryError(
                f"{name}: the host gives no {size // MIB}M of memory: have a smaller guest, {MORE_MEMORY}"
            ) from error
        self._bytes = memoryview(self._map)
        self._words = self._bytes.cast("Q")
        first = ctypes.c_char.from_buffer(self._map)
        self.address = ctypes.addressof(first)
        self._anonymous = True

    def _offset(self, ipa: int, length: int) -> int:
        offset = ipa - self.base
        if offset < 0 or length < 0 or offset + length > self.size:
            raise GuestMemoryError(f"{length:#x} bytes at {ipa:#x} are not in {self.region}")
        return offset

    def _word(self, ipa: int) -> int:
        offset = self._offset(ipa, 8)
        if offset & 7:
            raise GuestMemoryError(f"{ipa:#x} in {self.region} is not 8-byte aligned")
        return offset >> 3

    def read(self, ipa: int, length: int) -> bytes:
        """Return a copy of ``length`` bytes at ``ipa``.

        :raises GuestMemoryError: out of range.
        """
        offset = self._offset(ipa, length)
        return bytes(self._bytes[offset : offset + length])

    def write(self, ipa: int, data: bytes | bytearray | memoryview) -> None:
        """Store ``data`` at ``ipa``.

        :raises GuestMemoryError: out of range.
        """
        offset = self._offset(ipa, len(data))
        self._bytes[offset : offset + len(data)] = data

    def view(self, ipa: int, length: int) -> memoryview:
        """Return ``length`` bytes at ``ipa`` themselves, to be released before :meth:`close`.

        :raises GuestMemoryError: out of range.
        """
        offset = self._offset(ipa, length)
        return self._bytes[offset : offset + length]

    def load_u64(self, ipa: int) -> int:
        """Return the aligned 64-bit word at ``ipa``, read by one load.

        :raises GuestMemoryError: out of range or misaligned.
        """
        return self._words[self._word(ipa)]

    def store_u64(self, ipa: int, value: int) -> None:
        """Store the low 64 bits of ``value`` at ``ipa``, aligned, by one store.

        One store is what makes it single-copy atomic for a guest that reads with one load, as DEN0057A
        asks of ``stolen_time``.

        :raises GuestMemoryError: out of range or misaligned.
        """
        self._words[self._word(ipa)] = value & 0xFFFF_FFFF_FFFF_FFFF

    def clear(self) -> None:
        """Make every byte read as zero, by giving the pages back to the host where they are anonymous."""
        if self._anonymous:
            self._map.madvise(mmap.MADV_DONTNEED)
        else:
            self._bytes[:] = bytes(self.size)

    def map_file(self, fd: int) -> None:
        """Have a device's pages at the same address, with the contents that the memory has.

        :raises GuestMemoryError: the device refuses.
        """
        self._replace_pages(mmap.MAP_SHARED, fd)
        self._anonymous = False

    def unmap_file(self) -> None:
        """Have anonymous pages again, with the contents of the device's; harmless when repeated.

        :raises GuestMemoryError: the host has no memory left.
        """
        if not self._anonymous:
            self._replace_pages(mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE, -1)
            self._anonymous = True

    def _replace_pages(self, flags: int, fd: int) -> None:
        contents = bytes(self._bytes)
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = (
            *(ctypes.c_void_p, ctypes.c_size_t),
            *(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long),
        )
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        if libc.mmap(self.address, self.size, protection, flags | MAP_FIXED, fd, 0) == MAP_FAILED:
            reason = os.strerror(ctypes.get_errno())
            raise GuestMemoryError(f"{self.region}: its pages cannot be replaced: {reason}")
        self._bytes[:] = contents

    def close(self) -> None:
        """Give the memory back; with a :meth:`view` still held, once that is gone. Harmless when repeated."""
        self._words.release()
        with suppress(BufferError):
            self._bytes.release()
            self._map.close()
