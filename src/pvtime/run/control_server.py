# SPDX-License-Identifier: GPL-2.0-or-later
"""Server of the control socket of a machine that runs (docs/control.md)."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

from pvtime.engine.base import Outcome
from pvtime.errors import EngineError, MigrationError, PvtimeError, UsageError
from pvtime.inject.schedule import Schedule
from pvtime.report import stream
from pvtime.run.control_protocol import (
    MAX_LINE,
    PROTOCOL,
    ConsoleRequest,
    FollowRequest,
    InfoRequest,
    MigrateRequest,
    PauseRequest,
    Request,
    ResetRequest,
    ResumeRequest,
    RoundProgress,
    RunEnd,
    SaveRequest,
    StateResult,
    StatRequest,
    StealRequest,
    StealResult,
    StopRequest,
    check_path,
    send_line,
)
from pvtime.run.live_machine import LiveMachine
from pvtime.snapshot.address import OwnSocket
from pvtime.snapshot.codec import JsonObject, decode, from_json

__all__ = ["MAX_CLIENTS", "ControlServer"]

REQUEST_TIMEOUT_S: Final = 10.0
"""Seconds in which a whole request must arrive, and in which a client must take an answer."""

MAX_CLIENTS: Final = 32
"""Connections that are served at a time; more wait in the backlog."""

MAX_LASTING: Final = 16
"""Connections, of these, that may last: consoles and clients that follow."""

INPUT_RETRY_S: Final = 0.05
"""Pause before input is offered again to a guest that takes none."""

_UCRED: Final = struct.Struct("3i")
"""struct ucred: pid, uid, gid."""


class ControlServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Serves the clients of ``listener`` until it is closed.

    Every client has a thread: one that sends nothing does not keep others waiting.

    :param live: the machine.
    """

    def __init__(
        self, listener: OwnSocket, live: LiveMachine, request_timeout_s: float = REQUEST_TIMEOUT_S
    ) -> None:
        super().__init__("", _Client, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.request_timeout_s = request_timeout_s
        self.live = live
        self.lasting = threading.Semaphore(MAX_LASTING)
        self._free = threading.Semaphore(MAX_CLIENTS)
        self._connections: set[socket.socket] = set()
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="pvtime-control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening, cut off requests that are incomplete, wait for the others.

        Close the machine's exporter first: it ends saves and migrations.
        """
        self._closing = True
        self.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._free.release()  # which may also wait for this
        self._thread.join()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
        self.server_close()

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

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: a client that has gone is no error of the machine's."""


class _Client(socketserver.BaseRequestHandler):
    """A connection to the server."""

    server: ControlServer
    request: socket.socket
    _lasts = False
    """It is one of :data:`MAX_LASTING`."""

    def handle(self) -> None:
        """Serve the request."""
        with contextlib.suppress(OSError):
            try:
                # First: where a request is unread at the end, the client does not get the refusal.
                line = _receive_line(self.request, self.server.request_timeout_s)
                if not _is_owner(self.request):
                    raise UsageError("the machine belongs to another user")
                self.request.settimeout(self.server.request_timeout_s)
                result, then = self._execute(line)
                send_line(self.request, {"result": result})
                then()
            except PvtimeError as error:
                send_line(self.request, {"error": str(error), "exit_code": error.exit_code})
            except OSError:
                raise
            except Exception as error:
                # A bug, but the machine runs on, and the client waits for an answer.
                text = f"the request failed: {error!r}"
                send_line(self.request, {"error": text, "exit_code": PvtimeError.exit_code})

    def _execute(self, line: bytes) -> tuple[JsonObject, Callable[[], object]]:
        """Execute a request; return its result, and what is to be done once that is sent.

        :raises PvtimeError: the request is invalid, or was refused.
        """
        arguments = from_json(line, "the request")
        version, command = arguments.pop("protocol", None), arguments.pop("command", None)
        if version != PROTOCOL or type(version) is not int:
            raise UsageError(
                f"the request's protocol is {version!r:.20}, and this machine's is {PROTOCOL}: use the same "
                "release of pvtime as the machine"
            )
        handler = HANDLERS.get(command) if isinstance(command, str) else None
        if handler is None:
            raise UsageError(f"the request needs a command: one of {', '.join(HANDLERS)}")
        kind, execute = handler
        self._then: Callable[[], object] = lambda: None
        result = execute(self, decode(kind, arguments, "the request"))
        document: JsonObject = result if isinstance(result, dict) else asdict(result)  # type: ignore[call-overload]
        return document, self._then

    def _progress(self, document: JsonObject) -> None:
        send_line(self.request, {"progress": document})

    # Handlers: each takes its request and returns its result.

    def info(self, _request: InfoRequest) -> object:
        """Describe the machine."""
        return self.server.live.info()

    def stat(self, request: StatRequest) -> object:
        """Take a sample."""
        return stream.sample_document(self.server.live.figures(guest=request.guest))

    def follow(self, request: FollowRequest) -> object:
        """Send samples and events until the client hangs up or the run ends."""
        session, interval = self.server.live.session, request.interval_ns / 1e9
        self._last_until_end()
        position = session.events.count
        due = time.monotonic()
        while True:
            closed = session.events.closed
            events, position = session.events.read(position)
            for event in events:
                self._progress(stream.event_document(event))
            if closed:
                break
            if (now := time.monotonic()) >= due:
                due = max(due + interval, now)
                self._progress(stream.sample_document(session.figures()))
            readable, _, _ = select.select([self.request], [], [], min(interval, due - now, 1.0))
            if readable and not self.request.recv(1024):
                break
        return RunEnd((self.server.live.ended() or Outcome.STOPPED).value)

    def steal(self, request: StealRequest) -> object:
        """Inject steal by another schedule."""
        live = self.server.live
        live.set_steal(Schedule.parse(request.items, pauses=live.steal.pauses))
        return StealResult([str(item) for item in live.steal.items])

    def pause(self, _request: PauseRequest) -> object:
        """Pause the machine."""
        self.server.live.pause()
        return StateResult(self.server.live.state)

    def resume(self, _request: ResumeRequest) -> object:
        """Resume the machine."""
        self.server.live.resume()
        return StateResult(self.server.live.state)

    def reset(self, _request: ResetRequest) -> object:
        """Reset the machine."""
        self.server.live.reset()
        return StateResult(self.server.live.state)

    def stop(self, request: StopRequest) -> object:
        """End the run."""
        return RunEnd(self.server.live.stop(now=request.now).value)

    def console(self, request: ConsoleRequest) -> object:
        """Attach the client to the console."""
        if request.rows and request.columns:
            self.server.live.session.resize(request.rows, request.columns)
        log = self.server.live.session.console
        self._last_until_end()
        self._then = partial(self._pass_console, max(0, log.end - BACKLOG))
        return {}

    def save(self, request: SaveRequest) -> object:
        """Save the machine."""
        check_path(request.directory)
        return self.server.live.save(Path(request.directory), keep_running=request.keep_running)

    def migrate(self, request: MigrateRequest) -> object:
        """Migrate the machine."""

        def show(number: int, size: int) -> None:
            try:
                self._progress(asdict(RoundProgress(number, size)))
            except OSError as error:
                raise MigrationError("the client that requested the migration has gone") from error

        return self.server.live.exporter.migrate(request.peer, show)

    def _last_until_end(self) -> None:
        """Count this connection, until it ends, as one that lasts.

        :raises EngineError: there are many already.
        """
        if not self.server.lasting.acquire(blocking=False):
            raise EngineError(f"{MAX_LASTING} others follow the machine or its console: end one of them")
        self._lasts = True

    def finish(self) -> None:
        """Make room for another connection that lasts."""
        if self._lasts:
            self.server.lasting.release()

    def _pass_console(self, position: int) -> None:
        """Pass the console's bytes both ways, the output from ``position`` on, until one side ends."""
        live, typed = self.server.live, b""
        log, receive = live.session.console, live.built.machine.console.receive
        wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            with log.attached(lambda: os.eventfd_write(wake, 1)):
                while True:
                    output, position = log.read(position)
                    if output:
                        self.request.sendall(output)
                    elif log.closed:
                        return
                    wanted = [wake] if typed else [wake, self.request.fileno()]
                    timeout = 0.0 if output else INPUT_RETRY_S if typed else None
                    readable, _, _ = select.select(wanted, [], [], timeout)
                    if wake in readable:
                        os.eventfd_read(wake)
                    if self.request.fileno() in readable:
                        typed = self.request.recv(4096)
                        if not typed:
                            return
                    typed = typed[receive(typed) :]
        finally:
            os.close(wake)


BACKLOG: Final = 4096
"""Bytes of the console's last output that a client gets when it attaches."""

HANDLERS: Final[dict[str, tuple[type[Request], Callable[[_Client, Any], object]]]] = {
    ConsoleRequest.command: (ConsoleRequest, _Client.console),
    FollowRequest.command: (FollowRequest, _Client.follow),
    InfoRequest.command: (InfoRequest, _Client.info),
    MigrateRequest.command: (MigrateRequest, _Client.migrate),
    PauseRequest.command: (PauseRequest, _Client.pause),
    ResetRequest.command: (ResetRequest, _Client.reset),
    ResumeRequest.command: (ResumeRequest, _Client.resume),
    SaveRequest.command: (SaveRequest, _Client.save),
    StatRequest.command: (StatRequest, _Client.stat),
    StealRequest.command: (StealRequest, _Client.steal),
    StopRequest.command: (StopRequest, _Client.stop),
}


def _receive_line(connection: socket.socket, timeout_s: float) -> bytes:
    """Return a request.

    :raises UsageError: it has not arrived whole, or not in time.
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
    if not line.endswith(b"\n"):
        raise UsageError(f"the request has no end: a line of at most {MAX_LINE} bytes was expected")
    return line


def _is_owner(connection: socket.socket) -> bool:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return _UCRED.unpack(raw)[1] in (os.getuid(), 0)
