# SPDX-License-Identifier: GPL-2.0-or-later
"""What the host and the lab's agent say to each other over a serial line.

A frame is one byte of kind, four bytes of length (big-endian) and the payload. The line is an emulated
16550: it neither loses nor reorders bytes, so there is no checksum and no retry. Measured against the
prototype's 1 MiB both ways: 0.5 MB/s out of the lab, 0.12 MB/s into it, without a kernel module.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum

__all__ = ["CHUNK", "FrameError", "FrameReader", "Kind", "pack"]

CHUNK = 64 * 1024
"""Bytes; nobody sends a longer payload, and a longer one announced means that the line carries no frames."""

_HEADER = struct.Struct(">BI")


class FrameError(Exception):
    """What came is not a frame."""


class Kind(IntEnum):
    """What a frame is. The first two go into the lab, the others come out of it."""

    RUN = 1
    """JSON, see :class:`pvtime.lab.order.Order`."""
    SIGNAL = 2
    """JSON: a signal's number, for the command's process group."""
    READY = 16
    """Nothing; the agent waits for orders."""
    STDOUT = 17
    STDERR = 18
    OPEN = 19
    """A wanted file's name: its bytes follow as DATA."""
    DATA = 20
    MISSING = 21
    """A wanted file's name: it cannot be read."""
    EXIT = 22
    """JSON: the exit code, negative for a signal. The last frame of a command."""


def pack(kind: Kind, payload: bytes = b"") -> bytes:
    """Return the frames that carry ``payload``: one, or as many as its length needs."""
    pieces = [payload[at : at + CHUNK] for at in range(0, len(payload), CHUNK)] or [b""]
    return b"".join(_HEADER.pack(kind, len(piece)) + piece for piece in pieces)


class FrameReader:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Kind, bytes]]:
        """Take what was read and yield every frame that is now complete.

        :raises FrameError: the bytes are not ours.
        """
        self._pending += data
        while len(self._pending) >= _HEADER.size:
            kind, length = _HEADER.unpack_from(self._pending)
            if length > CHUNK or kind not in Kind.__members__.values():
                raise FrameError(f"not a frame: {bytes(self._pending[:32])!r}")
            end = _HEADER.size + length
            if len(self._pending) < end:
                return
            payload = bytes(self._pending[_HEADER.size : end])
            del self._pending[:end]
            yield Kind(kind), payload
