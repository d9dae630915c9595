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
target's. Either side may send ERROR with the reason and close.

A peer is input. Every frame must be one of those that can come next, and lengths are bounded. A frame must be
sent or taken whole within a time that depends on its length, so that a peer which sends or takes a byte now
and then holds nothing up, and its memory is allocated as its data arrives.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import math
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Protocol

from pvtime.errors import MigrationError
from pvtime.snapshot.description import MAX_IMAGE, Description
from pvtime.snapshot.state import MAX_STATE

__all__ = [
    "FORMAT",
    "LIMITS",
    "MAX_ROUNDS",
    "MESSAGE_TIMEOUT_S",
    "MIN_RATE",
    "PAGES_HEADER_SIZE",
    "Connection",
    "FrameKind",
    "Hello",
    "MigrationStream",
    "PeerError",
]

FORMAT: Final = "pvtime migration 5"
"""1 had the description as ``engine`` and ``config``; 3 had no frequency of the counter, and no ``lpt``."""

MESSAGE_TIMEOUT_S: Final = 30.0
"""Seconds in which a peer must send or take a whole frame, beside the time for its length at
:data:`MIN_RATE`."""

MIN_RATE: Final = 256 << 10
"""Bytes a second of the slowest peer."""

ERROR_TIMEOUT_S: Final = 1.0
"""Seconds for sending or receiving ERROR on a connection that has failed."""

_FIRST_READ: Final = 1 << 20
"""Bytes that are allocated for a frame before any of its data has arrived."""

MAX_ROUNDS: Final = 8
"""Rounds of pre-copy; a guest that writes faster than the peer takes is paused after them. The last round, in
the pause, comes on top, and each has all memory at most."""

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
    FrameKind.KERNEL: MAX_IMAGE,
    FrameKind.INITRD: MAX_IMAGE,
    FrameKind.PAGES: PAGES_HEADER_SIZE + (1 << 20),
    FrameKind.STATE: MAX_STATE,
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
    """The peer has sent ERROR, or is none of pvtime's."""


class Connection(Protocol):
    """A stream socket, as the protocol uses it: plain, or with TLS."""

    def send(self, data: memoryview, /) -> int:
        """Send a part of ``data`` and return its length."""

    def recv_into(self, buffer: memoryview, /) -> int:
        """Receive into ``buffer`` and return the number of bytes; 0: the peer has closed the connection."""

    def settimeout(self, value: float | None, /) -> None:
        """Set the time, in s, after which a call raises TimeoutError."""

    def shutdown(self, how: int, /) -> None:
        """Break the connection; pending calls return or raise."""

    def close(self) -> None:
        """Close the connection."""


class MigrationStream:
    """Frames on a connection, with a digest of everything that the source has sent.

    :param timeout_s: time in which the peer must send or take a whole frame, beside that for its length.
    :param clock: returns s.
    """

    def __init__(
        self,
        connection: Connection,
        timeout_s: float = MESSAGE_TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._clock = clock
        self._deadline = math.inf
        self._half_sent = False
        """A frame was begun and not sent whole: nothing that follows would be understood."""
        self._digest = hashlib.sha256()
        self.sent = 0
        """Bytes."""

    @property
    def digest(self) -> bytes:
        """SHA-256 of all frames so far, headers included."""
        return self._digest.digest()

    def set_deadline(self, timeout_s: float | None) -> None:
        """Limit the time for all frames from now on together, beside the time for each; None: no limit."""
        self._deadline = math.inf if timeout_s is None else self._clock() + timeout_s

    def extend_deadline(self, seconds: float) -> None:
        """Give all frames together more time than :meth:`set_deadline` did."""
        self._deadline += seconds

    def send(self, kind: FrameKind, *parts: bytes | bytearray | memoryview) -> None:
        """Send a frame.

        :raises PeerError: the peer has sent ERROR, or what is no frame.
        :raises MigrationError: the connection is broken, or the peer did not take the frame in time.
        """
        length = sum(map(len, parts))
        header = bytes(FrameHeader(kind=kind, length=length))
        end = self._end(length)
        self._half_sent = True
        try:
            for part in (header, *parts):
                self._write(part, end)
                self._digest.update(part)
                self.sent += len(part)
        except TimeoutError as error:
            raise MigrationError(f"the peer timed out: it did not take {kind.name} in time") from error
        except OSError as error:
            raise (self._pending_error() or _broken(error)) from error
        self._half_sent = False

    def receive(
        self, *expected: FrameKind, limit: int | None = None, timeout_s: float | None = None
    ) -> tuple[FrameKind, bytearray]:
        """Return kind and content of the next frame.

        :param limit: most bytes of its content, where that is less than :data:`LIMITS` has.
        :param timeout_s: time in which it must arrive, instead of the stream's.
        :raises PeerError: the peer has sent ERROR, or what is no frame.
        :raises MigrationError: the frame is none of ``expected``, or too long, or did not arrive in time, or
            the connection is broken.
        """
        names = " or ".join(kind.name for kind in expected) or "ERROR"
        end = self._end(0, timeout_s)
        raw = self._read(ctypes.sizeof(FrameHeader), end, names)
        header = FrameHeader.from_buffer_copy(raw)
        if header.kind == FrameKind.ERROR and header.length <= LIMITS[FrameKind.ERROR]:
            reason = self._read(header.length, end, "ERROR").decode(errors="replace")
            raise PeerError(f"the peer gave up: {reason}")
        if header.reserved or header.kind not in FrameKind.__members__.values():
            raise PeerError("the peer does not speak pvtime's protocol, or uses TLS where this side does not")
        kind = FrameKind(header.kind)
        if kind not in expected:
            raise MigrationError(f"the peer sent {kind.name} where {names} was expected")
        if header.length > min(LIMITS.get(kind, 0), math.inf if limit is None else limit):
            raise MigrationError(f"the peer sent {kind.name} of {header.length} bytes, which is too long")
        content = self._read(header.length, min(end + header.length / MIN_RATE, self._deadline), kind.name)
        self._digest.update(raw)
        self._digest.update(content)
        return kind, content

    def give_up(self, reason: str) -> None:
        """Send ERROR with the reason, if the peer can still understand it."""
        if self._half_sent:
            # TLS would even complete the unfinished frame first, which may be GO.
            return
        text = reason.encode(errors="replace")[: LIMITS[FrameKind.ERROR]]
        self._deadline = self._clock() + ERROR_TIMEOUT_S
        with contextlib.suppress(OSError):
            self._write(bytes(FrameHeader(kind=FrameKind.ERROR, length=len(text))) + text, self._deadline)

    def cancel(self) -> None:
        """Break the connection: pending and later calls raise. May be called from any thread."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _end(self, length: int, timeout_s: float | None = None) -> float:
        """Return the time by which a frame of ``length`` bytes must have been sent or taken."""
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        return min(self._clock() + timeout_s + length / MIN_RATE, self._deadline)

    def _await(self, end: float) -> None:
        """Have the connection's next call wait until ``end``.

        :raises TimeoutError: that has passed.
        """
        left = end - self._clock()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)

    def _write(self, data: bytes | bytearray | memoryview, end: float) -> None:
        view = memoryview(data)
        while view:
            self._await(end)
            view = view[self._connection.send(view) :]

    def _read(self, length: int, end: float, name: str) -> bytearray:
        """Return ``length`` bytes; no more memory is allocated than twice what has arrived, or 1 MiB.

        :param name: the frame's, for messages.
        """
        content = bytearray(min(length, _FIRST_READ))
        filled = 0
        while filled < length:
            if filled == len(content):
                content += bytes(min(length - filled, filled))
            try:
                self._await(end)
                with memoryview(content) as view:
                    count = self._connection.recv_into(view[filled:])
            except TimeoutError as error:
                raise MigrationError(f"the peer timed out: {name} did not arrive whole in time") from error
            except OSError as error:
                raise _broken(error) from error
            if not count:
                raise MigrationError("the peer closed the connection")
            filled += count
        return content

    def _pending_error(self) -> PeerError | None:
        """Return the reason that the peer sent before it closed the connection, if it did."""
        try:
            self.receive(timeout_s=ERROR_TIMEOUT_S)
        except PeerError as error:
            return error
        except MigrationError:
            pass
        return None


def _broken(error: OSError) -> MigrationError:
    if isinstance(error, ConnectionError) and error.errno:
        return MigrationError(
            "the peer closed the connection: check that it is pvtime, with the same --key or --insecure"
        )
    return MigrationError(f"the connection to the peer is broken: {error.strerror or error}")
