# SPDX-License-Identifier: GPL-2.0-or-later
"""What two processes say to each other when a machine moves: frames on a stream socket.

::

    source                                target
    HELLO     what the machine is     ->
    KERNEL, INITRD                    ->
    PAGES ... while the guest runs    ->
              (the guest is paused)
    PAGES ... the rest                ->
    STATE     all but memory          ->
    DIGEST    SHA-256 of all the above ->
                                      <-  READY     it could start
    GO        the source has ended    ->
                                      <-  RUNNING

Until GO the machine is the source's, which goes on where anything fails; from GO on it is the target's.
A peer is input: lengths are bounded, kinds come in this order.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import socket
from enum import IntEnum
from typing import Final

from pvtime.errors import MigrationError

__all__ = ["FORMAT", "LIMITS", "PAGES_AT", "Kind", "Stream"]

FORMAT: Final = "pvtime migration 1"
PAUSED_PATIENCE: Final = 5.0
"""Seconds that a peer may keep a guest paused with nothing said or taken. The guest's clock goes on, and
a kernel takes 20 s without progress for a soft lockup."""

LAST_WORDS: Final = 1.0
"""Seconds for telling a peer why; it may be one that takes nothing."""
PAGES_AT: Final = 8
"""Bytes before a PAGES frame's data: the IPA, little-endian."""


class Kind(IntEnum):
    """What a frame is."""

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
    Kind.HELLO: 1 << 20,
    Kind.KERNEL: 1 << 30,
    Kind.INITRD: 1 << 30,
    Kind.PAGES: PAGES_AT + (1 << 20),
    Kind.STATE: 64 << 20,
    Kind.DIGEST: hashlib.sha256().digest_size,
    Kind.ERROR: 1 << 12,
}
"""Bytes of a frame's content at most; nothing for the others."""


class Header(ctypes.LittleEndianStructure):
    """Before each frame's content."""

    _pack_ = 1
    _fields_ = (("kind", ctypes.c_uint32), ("reserved", ctypes.c_uint32), ("length", ctypes.c_uint64))


class Stream:
    """Frames over a connection, with a running digest of both directions' first sender: the source."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._digest = hashlib.sha256()
        self.sent = 0
        """Bytes."""

    @property
    def digest(self) -> bytes:
        """SHA-256 of all frames so far, headers included."""
        return self._digest.digest()

    def send(self, kind: Kind, *parts: bytes | bytearray | memoryview) -> None:
        """Send a frame.

        :raises MigrationError: the peer has gone, or says why it gives up.
        """
        header = bytes(Header(kind=kind, length=sum(map(len, parts))))
        try:
            for part in (header, *parts):
                self._write(part)
                self._digest.update(part)
                self.sent += len(part)
        except TimeoutError as error:
            raise MigrationError("the peer takes nothing any more") from error
        except OSError as error:
            raise MigrationError(self._last_words(f"the peer has gone: {error.strerror or error}")) from error

    def receive(self, *expected: Kind) -> tuple[Kind, bytearray]:
        """Return the next frame.

        :raises MigrationError: it is none of those ``expected``, too long, or the peer has gone or given up.
        """
        raw = self._read(ctypes.sizeof(Header))
        header = Header.from_buffer_copy(raw)
        if header.kind == Kind.ERROR and header.length <= LIMITS[Kind.ERROR]:
            reason = self._read(header.length).decode(errors="replace")
            raise MigrationError(f"the peer gave up: {reason}")
        if header.kind not in expected or header.reserved:
            names = " or ".join(kind.name for kind in expected)
            raise MigrationError(f"the peer sent frame {header.kind} where {names} was expected")
        kind = Kind(header.kind)
        if header.length > LIMITS.get(kind, 0):
            raise MigrationError(f"the peer sent {kind.name} of {header.length} bytes, which is too long")
        content = self._read(header.length)
        self._digest.update(raw)
        self._digest.update(content)
        return kind, content

    def give_up(self, reason: str) -> None:
        """Tell the peer, where it still listens."""
        text = reason.encode(errors="replace")[: LIMITS[Kind.ERROR]]
        try:
            self._connection.settimeout(LAST_WORDS)
            self._connection.sendall(bytes(Header(kind=Kind.ERROR, length=len(text))) + text)
        except OSError:
            return

    def _write(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it; a peer is waited for as long as it takes a part now and then."""
        view = memoryview(data)
        while view:
            view = view[self._connection.send(view) :]

    def _read(self, length: int) -> bytearray:
        content = bytearray(length)
        view, at = memoryview(content), 0
        while at < length:
            try:
                count = self._connection.recv_into(view[at:])
            except OSError as error:
                raise MigrationError(f"the peer has gone: {error.strerror or error}") from error
            if not count:
                raise MigrationError("the peer closed the connection")
            at += count
        return content

    def _last_words(self, otherwise: str) -> str:
        """Return why the peer has closed the connection, where it has said so."""
        try:
            self.receive()
        except MigrationError as error:
            return str(error) if "gave up" in str(error) else otherwise
        return otherwise

    def hurry(self) -> None:
        """Have less patience with the peer from now on: a guest is paused."""
        self._connection.settimeout(PAUSED_PATIENCE)

    def cancel(self) -> None:
        """Have whoever sends or receives be told that the peer has gone; from any thread."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection."""
        self._connection.close()
