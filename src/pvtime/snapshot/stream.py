# SPDX-License-Identifier: GPL-2.0-or-later
"""Protocol of a live migration: frames on a stream socket.

::

    source                                      target
    HELLO     the machine's description       ->
    KERNEL, INITRD                            ->
    PAGES ... while the guest runs            ->
              (the guest is paused)
    PAGES ... the rest                        ->
    STATE     devices and CPUs                ->
    DIGEST    SHA-256 of all frames before it ->
                                              <-  READY     the target has verified it and can start
    GO        the source has given it up      ->
                                              <-  RUNNING

Until GO is sent the machine is the source's, which resumes it if anything fails; from GO on it is the
target's. Either side may send ERROR with the reason and close. A peer is input: lengths are bounded, and
every frame must be one of those that can come next.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import socket
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from pvtime.errors import MigrationError
from pvtime.snapshot.description import Description

__all__ = [
    "FORMAT",
    "LIMITS",
    "PAGES_HEADER_SIZE",
    "FrameKind",
    "Hello",
    "MigrationStream",
    "PeerError",
]

FORMAT: Final = "pvtime migration 2"
"""1 had the description as ``engine`` and ``config``."""

ERROR_TIMEOUT_S: Final = 1.0
"""Seconds for sending ERROR; the peer may have stopped reading."""

PAGES_HEADER_SIZE: Final = 8
"""Bytes before the data of a PAGES frame: the IPA, little-endian."""


class FrameKind(IntEnum):
    """Kind of a frame."""

    HELLO = 1
    KERNEL = 2
    INITRD = 3
    PAGES = 4
    STATE = 5
    DIGEST = 6
    READY = 7
    GO = 8
    RUNNING = 9
    ERROR = 10


LIMITS: Final = {
    FrameKind.HELLO: 1 << 20,
    FrameKind.KERNEL: 1 << 30,
    FrameKind.INITRD: 1 << 30,
    FrameKind.PAGES: PAGES_HEADER_SIZE + (1 << 20),
    FrameKind.STATE: 64 << 20,
    FrameKind.DIGEST: hashlib.sha256().digest_size,
    FrameKind.ERROR: 1 << 12,
}
"""Most bytes of a frame's content; the other kinds have none."""


class FrameHeader(ctypes.LittleEndianStructure):
    """Header of a frame; the content follows."""

    _pack_ = 1
    _fields_ = (("kind", ctypes.c_uint32), ("reserved", ctypes.c_uint32), ("length", ctypes.c_uint64))


@dataclass(frozen=True)
class Hello:
    """Content of the HELLO frame."""

    format: str
    description: Description
    """The machine's; the images have frames of their own."""


class PeerError(MigrationError):
    """The peer has sent ERROR."""


class MigrationStream:
    """Frames on a connection, with a digest of everything that the source has sent."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._digest = hashlib.sha256()
        self.sent = 0
        """Bytes."""

    @property
    def digest(self) -> bytes:
        """SHA-256 of all frames so far, headers included."""
        return self._digest.digest()

    def send(self, kind: FrameKind, *parts: bytes | bytearray | memoryview) -> None:
        """Send a frame.

        :raises PeerError: the peer has sent ERROR.
        :raises MigrationError: the connection is broken, or the peer takes nothing.
        """
        header = bytes(FrameHeader(kind=kind, length=sum(map(len, parts))))
        try:
            for part in (header, *parts):
                self._write(part)
                self._digest.update(part)
                self.sent += len(part)
        except TimeoutError as error:
            raise MigrationError("the peer timed out: it takes no more data") from error
        except OSError as error:
            broken = MigrationError(f"the connection to the peer is broken: {error.strerror or error}")
            raise (self._pending_error() or broken) from error

    def receive(self, *expected: FrameKind) -> tuple[FrameKind, bytearray]:
        """Return kind and content of the next frame.

        :raises PeerError: the peer has sent ERROR.
        :raises MigrationError: the frame is none of ``expected``, or too long, or the connection is broken.
        """
        raw = self._read(ctypes.sizeof(FrameHeader))
        header = FrameHeader.from_buffer_copy(raw)
        if header.kind == FrameKind.ERROR and header.length <= LIMITS[FrameKind.ERROR]:
            reason = self._read(header.length).decode(errors="replace")
            raise PeerError(f"the peer gave up: {reason}")
        if header.kind not in expected or header.reserved:
            names = " or ".join(kind.name for kind in expected)
            raise MigrationError(f"the peer sent frame {header.kind} where {names} was expected")
        kind = FrameKind(header.kind)
        if header.length > LIMITS.get(kind, 0):
            raise MigrationError(f"the peer sent {kind.name} of {header.length} bytes, which is too long")
        content = self._read(header.length)
        self._digest.update(raw)
        self._digest.update(content)
        return kind, content

    def give_up(self, reason: str) -> None:
        """Send ERROR with the reason, if the peer still reads."""
        text = reason.encode(errors="replace")[: LIMITS[FrameKind.ERROR]]
        try:
            self._connection.settimeout(ERROR_TIMEOUT_S)
            self._connection.sendall(bytes(FrameHeader(kind=FrameKind.ERROR, length=len(text))) + text)
        except OSError:
            return

    def set_timeout(self, timeout_s: float) -> None:
        """Set the time in which the peer must send or take something."""
        self._connection.settimeout(timeout_s)

    def cancel(self) -> None:
        """Break the connection: pending and later calls raise. May be called from any thread."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _write(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of ``data``; the timeout starts again with each part that the peer takes."""
        view = memoryview(data)
        while view:
            view = view[self._connection.send(view) :]

    def _read(self, length: int) -> bytearray:
        content = bytearray(length)
        view, filled = memoryview(content), 0
        while filled < length:
            try:
                count = self._connection.recv_into(view[filled:])
            except TimeoutError as error:
                raise MigrationError("the peer timed out: it sends nothing") from error
            except OSError as error:
                reason = error.strerror or error
                raise MigrationError(f"the connection to the peer is broken: {reason}") from error
            if not count:
                raise MigrationError("the peer closed the connection")
            filled += count
        return content

    def _pending_error(self) -> PeerError | None:
        """Return the ERROR that the peer sent before it closed the connection, if it did."""
        try:
            self.receive()
        except PeerError as error:
            return error
        except MigrationError:
            pass
        return None
