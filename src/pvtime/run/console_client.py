# SPDX-License-Identifier: GPL-2.0-or-later
"""The console of a machine in another process, on this terminal."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Final

from pvtime.run.control_client import open_console
from pvtime.run.control_protocol import ConsoleRequest
from pvtime.run.inbox import Inbox, QuitRequested
from pvtime.run.terminal import DETACH_HELP, DETACH_KEYS_HELP, HELP, Keyboard, Terminal

__all__ = ["attach"]

CHUNK: Final = 1 << 14
"""Bytes read at once."""


def attach(path: Path) -> None:
    """Connect this process's terminal, or its standard streams, to the console of the machine at ``path``.

    :raises PvtimeError: the machine does not answer.
    """
    stdin = sys.stdin.fileno()
    if os.isatty(stdin):
        _attach_terminal(path, stdin)
        return
    with open_console(path, ConsoleRequest(0, 0)) as connection:
        _pass_streams(connection, stdin)


def _attach_terminal(path: Path, stdin: int) -> None:
    with Terminal(stdin) as terminal, contextlib.closing(Inbox()) as inbox:
        size = terminal.size()
        rows, columns = min(size.lines, 9999), min(size.columns, 9999)
        with open_console(path, ConsoleRequest(rows, columns)) as connection:
            print(f"pvtime: {DETACH_HELP}", flush=True)
            keyboard = Keyboard(stdin, lambda data: _sent(connection, data), inbox)
            keyboard.commands[HELP] = lambda: _write(
                "".join(f"pvtime: {line}\r\n" for line in DETACH_KEYS_HELP).encode()
            )
            over = False

            def output() -> bool:
                nonlocal over
                data = _received(connection)
                _write(data)
                over = not data
                return True

            inbox.watch(stdin, keyboard.readable)
            inbox.watch(connection.fileno(), output)
            with terminal.raw(), _ended_by_signals(inbox):
                while not over and not any(isinstance(event, QuitRequested) for event in inbox.take_events()):
                    inbox.wait(None)
        print(f"\r\npvtime: {'the machine has ended' if over else 'detached; the machine runs on'}")


@contextlib.contextmanager
def _ended_by_signals(inbox: Inbox) -> Iterator[None]:
    """Detach at SIGTERM and SIGHUP for the time of a ``with`` block."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        inbox.put(QuitRequested())

    previous = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _pass_streams(connection: socket.socket, stdin: int) -> None:
    """Pass standard input on until its end, and print the output until the machine's end."""
    wanted = [connection.fileno(), stdin]
    while True:
        readable, _, _ = select.select(wanted, [], [])
        if connection.fileno() in readable:
            data = _received(connection)
            if not data:
                return
            _write(data)
        if stdin in readable:
            typed = os.read(stdin, CHUNK)
            if typed:
                connection.sendall(typed)
            else:
                wanted.remove(stdin)


def _received(connection: socket.socket) -> bytes:
    """Return what has come; nothing: the machine has ended."""
    try:
        return connection.recv(CHUNK)
    except ConnectionError:
        return b""


def _sent(connection: socket.socket, data: bytes) -> int:
    """Send what the machine takes now, and return its size."""
    try:
        return connection.send(data, socket.MSG_DONTWAIT) if data else 0
    except BlockingIOError:
        return 0
    except ConnectionError:
        return len(data)  # its end is noticed where it is received from


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
