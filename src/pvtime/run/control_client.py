# SPDX-License-Identifier: GPL-2.0-or-later
"""Client of the control socket of a machine that runs."""

from __future__ import annotations

import contextlib
import io
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

from pvtime.errors import PvtimeError, SavedStateError, UsageError
from pvtime.run.control_protocol import MAX_LINE, ConsoleRequest, Request, request_document, send_line
from pvtime.snapshot.address import PEER_TIMEOUT_S, Address
from pvtime.snapshot.codec import JsonObject, decode, from_json

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["ask", "open_console"]

T = TypeVar("T")


def ask(
    path: Path,
    request: Request,
    kind: type[T] | None,
    progress: Callable[[JsonObject], object] = lambda _document: None,
    timeout_s: float | None = None,
) -> T:
    """Send a request to the machine whose control socket is ``path``, and return the result.

    :param kind: type of the result: the one that belongs to the request; None: return its JSON object.
    :param progress: called with each answer before the result.
    :param timeout_s: time for the connection and all answers together; None: without limit.
    :raises PvtimeError: the machine refuses, or nothing listens there, or something other than pvtime.
    """
    with _asked(path, request, timeout_s) as (_, lines):
        for answer in _answers(lines):
            if "result" in answer:
                result: Any = answer["result"]
                if kind is not None:
                    return decode(kind, result, "the answer")
                if not isinstance(result, dict):
                    raise SavedStateError("the answer is not an object")
                return result  # type: ignore[return-value]
            if not isinstance(answer.get("progress"), dict):
                raise SavedStateError("the answer has no result")
            progress(answer["progress"])
    raise UsageError(f"{path}: the machine ended before it answered")


@contextlib.contextmanager
def open_console(path: Path, request: ConsoleRequest) -> Iterator[socket.socket]:
    """Attach to a machine's console for the time of a ``with`` block; return the connection for its bytes.

    :raises PvtimeError: see :func:`ask`.
    """
    # Without a buffer: what follows the result is not read by lines.
    with _asked(path, request, None, buffered=False) as (connection, lines):
        if next(_answers(lines), None) is None:
            raise UsageError(f"{path}: the machine ended before it answered")
        yield connection


@contextlib.contextmanager
def _asked(
    path: Path, request: Request, timeout_s: float | None, *, buffered: bool = True
) -> Iterator[tuple[socket.socket, IO[bytes]]]:
    give_up_at = None if timeout_s is None else time.monotonic() + timeout_s
    try:
        # Nor may the connection take longer: a stopped machine's backlog may be full.
        connection = Address(path=str(path)).connect(PEER_TIMEOUT_S if timeout_s is None else timeout_s)
    except UsageError as error:
        raise UsageError(f"no machine answers at the control socket {error}") from error
    with connection:
        connection.settimeout(timeout_s)
        try:
            send_line(connection, request_document(request))
            received = _Received(connection, give_up_at)
            with io.BufferedReader(received) if buffered else received as lines:
                yield connection, cast("IO[bytes]", lines)
        except SavedStateError as error:
            raise UsageError(f"{path}: what answers there is not a machine of pvtime's: {error}") from error
        except TimeoutError as error:
            raise UsageError(f"{path}: the machine has not answered within {timeout_s:g} s") from error
        except OSError as error:
            raise UsageError(f"{path}: the machine closed the connection: look whether it runs") from error


class _Received(io.RawIOBase):
    """The bytes of a connection, all of them before a deadline, however they come in pieces.

    :param give_up_at: the deadline, by the monotonic clock; None: there is none.
    """

    def __init__(self, connection: socket.socket, give_up_at: float | None) -> None:
        self._connection = connection
        self._give_up_at = give_up_at

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Receive at most as many bytes as the buffer has, and return how many; 0 at the end.

        :raises TimeoutError: the deadline has passed.
        """
        if self._give_up_at is not None:
            left = self._give_up_at - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


def _answers(lines: IO[bytes]) -> Iterator[JsonObject]:
    """Yield the answers.

    :raises PvtimeError: one is a refusal.
    """
    while line := lines.readline(MAX_LINE):
        answer = from_json(line, "the answer")
        if "error" in answer:
            raise _refusal(answer)
        yield answer


def _refusal(answer: JsonObject) -> PvtimeError:
    error = UsageError(str(answer["error"]))
    if answer.get("exit_code") == PvtimeError.exit_code:
        error.exit_code = PvtimeError.exit_code
    return error
