# SPDX-License-Identifier: GPL-2.0-or-later
"""Decompression with a bound: a small file must not become all of the host's memory."""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable, Mapping
from typing import Final

__all__ = ["GZIP_MAGIC", "MAX_UNPACKED", "UNPACKERS", "UnpackError"]

GZIP_MAGIC: Final = b"\x1f\x8b"

MAX_UNPACKED: Final = 512 << 20
"""Bytes that any unpacked kernel stays below by far."""

MAX_DICTIONARY: Final = 256 << 20
"""Bytes of memory for an xz dictionary; the kernel's own scripts/xz_wrap.sh asks for at most 128 MiB."""

GZIP_WBITS: Final = 16 + zlib.MAX_WBITS
"""zlib's way to say: with a gzip header."""


class UnpackError(Exception):
    """Damaged, truncated, or too large; the message says which and what to do."""


def _finished(name: str, data: bytes, eof: bool) -> bytes:
    if len(data) > MAX_UNPACKED:
        raise UnpackError(f"unpacks to more than {MAX_UNPACKED >> 20}M: no kernel does")
    if not eof:
        raise UnpackError(f"the {name} data is truncated: fetch or copy it again")
    return data


def _gunzip(data: bytes) -> bytes:
    unpacker = zlib.decompressobj(wbits=GZIP_WBITS)
    try:
        unpacked = unpacker.decompress(data, MAX_UNPACKED + 1)
    except zlib.error as error:
        raise UnpackError(f"the gzip data is damaged: fetch or copy it again ({error})") from error
    return _finished("gzip", unpacked, unpacker.eof)


def _unlzma(data: bytes) -> bytes:
    unpacker = lzma.LZMADecompressor(memlimit=MAX_DICTIONARY)
    try:
        unpacked = unpacker.decompress(data, MAX_UNPACKED + 1)
    except lzma.LZMAError as error:
        raise UnpackError(f"the xz data is damaged: fetch or copy it again ({error})") from error
    return _finished("xz", unpacked, unpacker.eof)


UNPACKERS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "gzip": _gunzip,
    "lzma": _unlzma,
    "xzkern": _unlzma,
}
"""By the names that an EFI zboot header has (scripts/Makefile.lib of the kernel)."""
