# SPDX-License-Identifier: GPL-2.0-or-later
"""A conversation in lines of JSON with a socket of another process, which may be hostile.

The path comes from the process's command line, which anybody can choose. So nothing is sent before the kernel
has said that this very process listens there, and neither time nor size of its answers is without limit.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from pvtime.host.process import PROC

__all__ = ["VmmSocket", "VmmSocketError"]

MAX_BYTES: Final = 1 << 22
"""Of all answers of a conversation: the statistics of 4,096 vCPUs, at some 200 bytes each, four times."""
_CREDENTIALS: Final = struct.Struct("=iII")
"""struct ucred: process, user, group."""


class VmmSocketError(Exception):
    """The process did not answer, or with something else; the text is for people."""


class VmmSocket:
    """A connection to a socket on which a process listens. Use it as a context manager.

    :param path: as the process sees it: in its root directory, relative to its current one.
    :param timeout_s: time for the whole conversation, in seconds.
    :raises VmmSocketError: nobody, or somebody else, listens there.
    """

    def __init__(self, pid: int, path: str, timeout_s: float, proc: Path = PROC) -> None:
        self._deadline = time.monotonic() + timeout_s
        self._received = b""
        self._room = MAX_BYTES
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            # A path of any length: the file is opened, and connected to by its descriptor.
            base = "root" if path.startswith("/") else "cwd"
            target = os.open(f"{proc}/{pid}/{base}/{path.lstrip('/')}", os.O_PATH | os.O_CLOEXEC)
            try:
                self._socket.settimeout(timeout_s)
                self._socket.connect(f"/proc/self/fd/{target}")
            finally:
                os.close(target)
            credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            if _CREDENTIALS.unpack(credentials)[0] != pid:
                raise VmmSocketError("another process listens at its socket")
        except (OSError, ValueError) as error:
            self._socket.close()
            raise VmmSocketError("nobody answers at its socket") from error
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> VmmSocket:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._socket.close()

    def send(self, document: dict[str, Any], before: bytes = b"") -> None:
        """Send an object as a line, with bytes before it."""
        try:
            self._socket.settimeout(self._left())
            self._socket.sendall(before + json.dumps(document).encode() + b"\n")
        except OSError as error:
            raise VmmSocketError("it has closed its socket") from error

    def receive(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the first object that is wanted; others, and lines that are none, are passed over."""
        while True:
            line, newline, rest = self._received.partition(b"\n")
            if not newline:
                self._fill()
                continue
            self._received = rest
            try:
                document = json.loads(line.lstrip(b"\xff"))
            except (ValueError, RecursionError):
                continue
            if isinstance(document, dict) and wanted(document):
                return document

    def _fill(self) -> None:
        try:
            self._socket.settimeout(self._left())
            part = self._socket.recv(min(1 << 16, self._room))
        except OSError as error:
            raise VmmSocketError("it has not answered in time") from error
        if not part:
            raise VmmSocketError("it has closed its socket, or sent too much")
        self._room -= len(part)
        self._received += part

    def _left(self) -> float:
        """Return the time that is left, in seconds."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise VmmSocketError("it has not answered in time")
        return left
