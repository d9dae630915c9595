# SPDX-License-Identifier: GPL-2.0-or-later
"""The protocol between the host and the lab's agent, over a serial line.

A frame is one byte of kind, four bytes of length (big-endian) and the payload. The line is an emulated
16550: it neither loses nor reorders bytes, so there is no checksum and no retry. Measured against the
prototype's 1 MiB both ways: 0.5 MB/s out of the lab, 0.12 MB/s into it, without a kernel module.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Self

__all__ = ["CHUNK", "AgentFrame", "CommandRequest", "FrameError", "FrameReader", "pack"]

CHUNK = 64 * 1024
"""Bytes of the longest payload; a length beyond it means that the line carries something else."""

_HEADER = struct.Struct(">BI")


class FrameError(Exception):
    """Received bytes that are not a frame."""


class AgentFrame(IntEnum):
    """Type of a frame. The first two go into the lab, the others come out of it."""

    RUN = 1
    """A :class:`CommandRequest` as JSON."""
    SIGNAL = 2
    """JSON: a signal's number, for the command's process group."""
    READY = 16
    """Empty: the agent waits for requests."""
    STDOUT = 17
    STDERR = 18
    OPEN = 19
    """A wanted file's name: its bytes follow as DATA."""
    DATA = 20
    MISSING = 21
    """A wanted file's name: it cannot be read."""
    EXIT = 22
    """JSON: the exit code, negative for a signal. The last frame of a command."""


def pack(kind: AgentFrame, payload: bytes = b"") -> bytes:
    """Return the frames that carry ``payload``: one, or as many as its length needs."""
    pieces = [payload[start : start + CHUNK] for start in range(0, len(payload), CHUNK)] or [b""]
    return b"".join(_HEADER.pack(kind, len(piece)) + piece for piece in pieces)


class FrameReader:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[AgentFrame, bytes]]:
        """Take received bytes and yield every frame that they complete.

        :raises FrameError: they are not frames.
        """
        self._pending += data
        while len(self._pending) >= _HEADER.size:
            kind, length = _HEADER.unpack_from(self._pending)
            if length > CHUNK or kind not in AgentFrame.__members__.values():
                raise FrameError(f"not a frame: {bytes(self._pending[:32])!r}")
            end = _HEADER.size + length
            if len(self._pending) < end:
                return
            payload = bytes(self._pending[_HEADER.size : end])
            del self._pending[:end]
            yield AgentFrame(kind), payload


@dataclass(frozen=True)
class CommandRequest:
    """A command for the agent to run: the payload of RUN."""

    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    """Added to the agent's environment."""
    out: list[str] = field(default_factory=list)
    """Files to send back after the command's end."""
    terminal: tuple[int, int] | None = None
    """Columns and lines of a terminal to run it on; None for pipes."""

    def encode(self) -> bytes:
        """Return the payload."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Read the payload."""
        fields = json.loads(payload)
        terminal = fields.pop("terminal")
        return cls(**fields, terminal=tuple(terminal) if terminal else None)
