# SPDX-License-Identifier: GPL-2.0-or-later
"""The control socket of a running machine: one request a connection, as a line of JSON; answers likewise."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from pvtime.errors import PvtimeError, UsageError
from pvtime.machine.saved.codec import decode, encode, from_json
from pvtime.transfer.address import Address, OwnSocket
from pvtime.transfer.keeper import Keeper
from pvtime.transfer.requests import Migrate, Save

__all__ = ["Control", "ask"]

LIMIT: Final = 1 << 14
"""Bytes of a request or an answer."""

_UCRED: Final = struct.Struct("3i")
"""struct ucred: pid, uid, gid."""


class Control:
    """Listens at a path as long as it is open; see :func:`ask` for the other side.

    :raises UsageError: the path cannot be listened at.
    """

    def __init__(self, path: Path, keeper: Keeper) -> None:
        self._keeper = keeper
        try:
            self._listener = OwnSocket(str(path))
        except OSError as error:
            raise UsageError(f"--control {path}: {error.strerror or error}") from error
        self._thread = threading.Thread(target=self._serve, name="pvtime-control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listen no more, and wait for what is being served."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        def say(**answer: object) -> None:
            connection.sendall(json.dumps(answer).encode() + b"\n")

        try:
            if not _is_owner(connection):
                raise UsageError("this machine is another user's")
            connection.settimeout(10)
            result = self._obey(_line(connection), lambda number, size: say(round=number, bytes=size))
            say(result=result)
        except PvtimeError as error:
            with contextlib.suppress(OSError):
                say(error=str(error), exit_code=error.exit_code)
        except OSError:
            return  # whoever asked has gone

    def _obey(self, line: bytes, progress: Callable[[int, int], object]) -> dict[str, Any]:
        document = from_json(line, "the request")
        if "directory" in document:
            save = decode(Save, document, "the request")
            return asdict(self._keeper.save(Path(save.directory), keep_running=save.keep_running))
        migrate = decode(Migrate, document, "the request")
        return asdict(self._keeper.migrate(Address.parse(migrate.address), progress))


def ask(
    path: Path, request: Save | Migrate, progress: Callable[[int, int], object] = lambda _number, _size: None
) -> dict[str, Any]:
    """Ask the machine whose control socket is at ``path``; return the fields of its answer.

    :raises PvtimeError: it refuses; or nobody listens there.
    """
    with Address(path=str(path)).connect() as connection:
        connection.settimeout(None)
        try:
            connection.sendall(json.dumps(encode(request)).encode() + b"\n")
            with connection.makefile("rb") as lines:
                while line := lines.readline(LIMIT):
                    answer = from_json(line, f"{path}: the answer")
                    if "error" in answer:
                        raise _error(answer)
                    if "result" in answer:
                        result: dict[str, Any] = answer["result"]
                        return result
                    progress(answer["round"], answer["bytes"])
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror or error}") from error
    raise UsageError(f"{path}: the machine ended before it answered")


def _error(answer: dict[str, Any]) -> PvtimeError:
    error = UsageError(str(answer["error"]))
    error.exit_code = int(answer.get("exit_code", 1))
    return error


def _is_owner(connection: socket.socket) -> bool:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return _UCRED.unpack(raw)[1] in (os.getuid(), 0)


def _line(connection: socket.socket) -> bytes:
    with connection.makefile("rb") as lines:
        return lines.readline(LIMIT)
