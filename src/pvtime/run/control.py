# SPDX-License-Identifier: GPL-2.0-or-later
"""Control socket of a machine that runs: server and client.

A connection carries one request and its answers, each a line of JSON; docs/saved.md has the protocol.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Self, TypeVar

from pvtime.errors import MigrationError, PvtimeError, SavedStateError, UsageError
from pvtime.run.exporter import Exporter, SaveResult
from pvtime.snapshot.address import Address, OwnSocket
from pvtime.snapshot.codec import JsonObject, decode, from_json
from pvtime.snapshot.endpoint import Endpoint
from pvtime.snapshot.send import MigrationResult

__all__ = ["MAX_CLIENTS", "ControlServer", "MigrateRequest", "RoundProgress", "SaveRequest", "ask"]

MAX_LINE: Final = 1 << 14
"""Bytes of a request or an answer."""

REQUEST_TIMEOUT_S: Final = 10.0
"""Seconds in which a whole request must arrive."""

MAX_CLIENTS: Final = 8
"""Connections that are served at a time; more wait in the backlog."""

_UCRED: Final = struct.Struct("3i")
"""struct ucred: pid, uid, gid."""


@dataclass(frozen=True)
class SaveRequest:
    """Save the machine to a new directory; the result is a :class:`SaveResult`."""

    command: ClassVar = "save"

    directory: str
    """An absolute path."""
    keep_running: bool


@dataclass(frozen=True)
class MigrateRequest:
    """Migrate the machine to a process that listens; the result is a :class:`MigrationResult`."""

    command: ClassVar = "migrate"

    address: str
    key: str | None
    """An absolute path of a file; None: without TLS."""
    insecure: bool
    """Without TLS in a network."""

    @classmethod
    def to(cls, peer: Endpoint) -> Self:
        """Return the request for a migration to a peer, which has absolute paths."""
        return cls(str(peer.address), None if peer.key is None else str(peer.key), peer.insecure)

    @property
    def peer(self) -> Endpoint:
        """The peer.

        :raises UsageError: it is none.
        """
        if self.key is not None:
            _check_path(self.key)
        return Endpoint.parse(self.address, None if self.key is None else Path(self.key), self.insecure)


@dataclass(frozen=True)
class RoundProgress:
    """A round of memory that a migration has sent while the machine ran."""

    round: int
    bytes: int


Result = TypeVar("Result", SaveResult, MigrationResult)


class ControlServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Serves the clients of ``listener`` until it is closed.

    Every client has a thread: one that sends nothing does not keep others waiting.

    :param exporter: executes the requests, one at a time.
    """

    def __init__(
        self, listener: OwnSocket, exporter: Exporter, request_timeout_s: float = REQUEST_TIMEOUT_S
    ) -> None:
        super().__init__("", _Client, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.request_timeout_s = request_timeout_s
        self._exporter = exporter
        self._commands: dict[str, Callable[[JsonObject, socket.socket], object]] = {
            SaveRequest.command: self._save,
            MigrateRequest.command: self._migrate,
        }
        self._free = threading.Semaphore(MAX_CLIENTS)
        self._connections: set[socket.socket] = set()
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="pvtime-control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening, cut off requests that are incomplete, wait for the exporter; close that first."""
        self._closing = True
        self.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._free.release()  # which may also wait for this
        self._thread.join()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
        self.server_close()

    def execute(self, line: bytes, connection: socket.socket) -> object:
        """Execute a request and return its result, a dataclass.

        :raises PvtimeError: the request is invalid, or was refused.
        """
        arguments = from_json(line, "the request")
        command = arguments.pop("command", None)
        handler = self._commands.get(command) if isinstance(command, str) else None
        if handler is None:
            raise UsageError(f"the request needs a command: one of {', '.join(self._commands)}")
        return handler(arguments, connection)

    def _save(self, arguments: JsonObject, _connection: socket.socket) -> SaveResult:
        request = decode(SaveRequest, arguments, "the request")
        _check_path(request.directory)
        return self._exporter.save(Path(request.directory), keep_running=request.keep_running)

    def _migrate(self, arguments: JsonObject, connection: socket.socket) -> MigrationResult:
        def show(number: int, size: int) -> None:
            try:
                _send_line(connection, {"progress": asdict(RoundProgress(number, size))})
            except OSError as error:
                raise MigrationError("the client that requested the migration has gone") from error

        request = decode(MigrateRequest, arguments, "the request")
        return self._exporter.migrate(request.peer, show)

    def _serve(self) -> None:
        while not self._closing:
            self.handle_request()

    # Hooks of socketserver.

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a client on a thread of its own, when one of :data:`MAX_CLIENTS` is free."""
        self._free.acquire()
        self._connections.add(request)
        if self._closing:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection that was served."""
        self._connections.discard(request)
        super().shutdown_request(request)
        self._free.release()


class _Client(socketserver.BaseRequestHandler):
    """A connection to the server."""

    server: ControlServer
    request: socket.socket

    def handle(self) -> None:
        """Serve the request."""
        with contextlib.suppress(OSError):
            _send_line(self.request, self._answer())

    def _answer(self) -> JsonObject:
        try:
            line = _receive_line(self.request, self.server.request_timeout_s)
            if not _is_owner(self.request):
                raise UsageError("the machine belongs to another user")
            self.request.settimeout(self.server.request_timeout_s)
            return {"result": asdict(self.server.execute(line, self.request))}  # type: ignore[call-overload]
        except PvtimeError as error:
            return {"error": str(error), "exit_code": error.exit_code}
        except Exception as error:
            # A bug, but the machine runs on, and the client waits for an answer.
            return {"error": f"the request failed: {error!r}", "exit_code": PvtimeError.exit_code}


def ask(
    path: Path,
    request: SaveRequest | MigrateRequest,
    kind: type[Result],
    progress: Callable[[int, int], object] = lambda _number, _size: None,
) -> Result:
    """Send a request to the machine whose control socket is ``path``, and return the result.

    :param kind: type of the result: the one that belongs to the request.
    :raises PvtimeError: the machine refuses, or nothing listens there, or something other than pvtime.
    """
    try:
        connection = Address(path=str(path)).connect()
    except UsageError as error:
        raise UsageError(f"no machine answers at the control socket {error}") from error
    with connection:
        connection.settimeout(None)
        try:
            _send_line(connection, {"command": request.command, **asdict(request)})
            with connection.makefile("rb") as lines:
                while line := lines.readline(MAX_LINE):
                    answer = from_json(line, "the answer")
                    if "error" in answer:
                        raise _refusal(answer)
                    if "result" in answer:
                        return decode(kind, answer["result"], "the answer")
                    sent = decode(RoundProgress, answer.get("progress"), "the answer")
                    progress(sent.round, sent.bytes)
        except SavedStateError as error:
            raise UsageError(f"{path}: what answers there is not a machine of pvtime's: {error}") from error
        except OSError as error:
            raise UsageError(f"{path}: the machine closed the connection: look whether it runs") from error
    raise UsageError(f"{path}: the machine ended before it answered")


def _check_path(path: str) -> None:
    if not path.startswith("/") or "\0" in path:
        raise UsageError(f"{path!r} is not an absolute path: give one")


def _refusal(answer: JsonObject) -> PvtimeError:
    error = UsageError(str(answer["error"]))
    if answer.get("exit_code") == PvtimeError.exit_code:
        error.exit_code = PvtimeError.exit_code
    return error


def _send_line(connection: socket.socket, document: JsonObject) -> None:
    connection.sendall(json.dumps(document).encode() + b"\n")


def _receive_line(connection: socket.socket, timeout_s: float) -> bytes:
    """Return a request.

    :raises UsageError: it has not arrived in time.
    """
    end = time.monotonic() + timeout_s
    line = b""
    try:
        while not line.endswith(b"\n") and len(line) < MAX_LINE:
            connection.settimeout(max(end - time.monotonic(), 0.001))
            part = connection.recv(MAX_LINE - len(line))
            if not part:
                break
            line += part
    except TimeoutError:
        raise UsageError(f"no request arrived within {timeout_s:g} s") from None
    return line


def _is_owner(connection: socket.socket) -> bool:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return _UCRED.unpack(raw)[1] in (os.getuid(), 0)
