# SPDX-License-Identifier: GPL-2.0-or-later
"""The control socket of a running machine: one request a connection, as a line of JSON; answers likewise."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from pvtime.errors import MigrationError, PvtimeError, SavedStateError, UsageError
from pvtime.machine.codec import JsonObject, decode, encode, from_json
from pvtime.run.keeper import Keeper
from pvtime.run.requests import Migrate, Moved, Progress, Save, Saved
from pvtime.snapshot.address import Address, OwnSocket

__all__ = ["CLIENTS", "PATIENCE", "Control", "ask"]

LIMIT: Final = 1 << 14
"""Bytes of a request or an answer."""

PATIENCE: Final = 10.0
"""Seconds in which a request must have come."""

CLIENTS: Final = 8
"""Attended to at a time; more wait."""

_UCRED: Final = struct.Struct("3i")
"""struct ucred: pid, uid, gid."""

Answer = TypeVar("Answer", Saved, Moved)


class Control:
    """Serves who connects to ``listener`` until it is closed; see :func:`ask` for the other side.

    Everybody gets a thread: one that says nothing keeps nobody else waiting. The keeper serves one at a time.
    """

    def __init__(self, listener: OwnSocket, keeper: Keeper) -> None:
        self._listener = listener
        self._keeper = keeper
        self._room = threading.Semaphore(CLIENTS)
        self._clients: dict[threading.Thread, socket.socket] = {}
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="pvtime-control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listen no more, hear nobody out, and wait for what the keeper still does; close it first."""
        self._closing = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self._room.release()  # it may wait for that
        self._thread.join()
        for thread, connection in list(self._clients.items()):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
            thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            self._room.acquire()
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if self._closing:
                connection.close()
                return
            thread = threading.Thread(
                target=self._attend, args=[connection], name="pvtime-client", daemon=True
            )
            self._clients[thread] = connection
            thread.start()

    def _attend(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            _say(connection, self._answer(connection))
        del self._clients[threading.current_thread()]
        self._room.release()

    def _answer(self, connection: socket.socket) -> JsonObject:
        try:
            line = _line(connection)
            if not _is_owner(connection):
                raise UsageError("this machine is another user's")
            connection.settimeout(PATIENCE)
            return {"result": self._obey(line, connection)}
        except PvtimeError as error:
            return {"error": str(error), "exit_code": error.exit_code}
        except Exception as error:
            # Unforeseen, yet the machine runs on, and whoever asked waits.
            return {"error": f"this cannot be served: {error!r}", "exit_code": PvtimeError.exit_code}

    def _obey(self, line: bytes, connection: socket.socket) -> JsonObject:
        document = from_json(line, "the request")
        if "directory" in document:
            save = decode(Save, document, "the request")
            if not save.directory.startswith("/") or "\0" in save.directory:
                raise SavedStateError(f"{save.directory!r} is no absolute path")
            return encode(self._keeper.save(Path(save.directory), keep_running=save.keep_running))

        def tell(number: int, size: int) -> None:
            try:
                _say(connection, encode(Progress(number, size)))
            except OSError as error:
                raise MigrationError("whoever asked for it has gone") from error

        migrate = decode(Migrate, document, "the request")
        return encode(self._keeper.migrate(Address.parse(migrate.address), tell))


def ask(
    path: Path,
    request: Save | Migrate,
    kind: type[Answer],
    progress: Callable[[int, int], object] = lambda _number, _size: None,
) -> Answer:
    """Ask the machine whose control socket is at ``path``, and return its answer.

    :param kind: of the answer: the one that belongs to the request.
    :raises PvtimeError: it refuses; or nobody listens there, or something else.
    """
    name = f"{path}: the answer"
    with Address(path=str(path)).connect() as connection:
        connection.settimeout(None)
        try:
            _say(connection, encode(request))
            with connection.makefile("rb") as lines:
                while line := lines.readline(LIMIT):
                    answer = from_json(line, name)
                    if "error" in answer:
                        raise _error(answer)
                    if "result" in answer:
                        return decode(kind, answer["result"], name)
                    told = decode(Progress, answer, name)
                    progress(told.round, told.bytes)
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror or error}") from error
    raise UsageError(f"{path}: the machine ended before it answered")


def _say(connection: socket.socket, document: JsonObject) -> None:
    connection.sendall(json.dumps(document).encode() + b"\n")


def _error(answer: JsonObject) -> PvtimeError:
    error = UsageError(str(answer["error"]))
    if answer.get("exit_code") == PvtimeError.exit_code:
        error.exit_code = PvtimeError.exit_code
    return error


def _is_owner(connection: socket.socket) -> bool:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return _UCRED.unpack(raw)[1] in (os.getuid(), 0)


def _line(connection: socket.socket) -> bytes:
    """Return a request.

    :raises UsageError: it does not come in time.
    """
    end = time.monotonic() + PATIENCE
    line = b""
    try:
        while not line.endswith(b"\n") and len(line) < LIMIT:
            connection.settimeout(max(end - time.monotonic(), 0.001))
            part = connection.recv(LIMIT - len(line))
            if not part:
                break
            line += part
    except TimeoutError:
        raise UsageError("no request has come") from None
    return line
