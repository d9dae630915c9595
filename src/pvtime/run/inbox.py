# SPDX-License-Identifier: GPL-2.0-or-later
"""The main thread's queue: output of the guest, and events of a run, from any thread or signal handler."""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Callable
from typing import Final, TypeVar

from pvtime.engine.base import Outcome
from pvtime.errors import PvtimeError
from pvtime.records import dataclass

__all__ = [
    "CONSOLE_LIMIT",
    "EngineEnded",
    "Inbox",
    "QuitRequested",
    "SaveFailed",
    "SignalReceived",
    "StopNow",
    "TerminalResized",
]

CONSOLE_LIMIT: Final = 1 << 20
"""Transmissions kept until the main thread takes them. A guest may print faster than a terminal shows, and
memory is the host's: more are counted and dropped. Waiting instead would let a blocked terminal stop the
engine's thread, and with it :meth:`~pvtime.engine.base.Engine.stop`."""

RETRY_INTERVAL_S: Final = 0.05
"""Pause before input that could not be passed on is offered again."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class SignalReceived:
    """Event: the process got a signal that asks it to end."""

    number: int


@dataclass(frozen=True)
class TerminalResized:
    """Event: the terminal has a new size, in characters."""

    rows: int
    columns: int


@dataclass(frozen=True)
class QuitRequested:
    """Event: the user typed the escape key and q."""


@dataclass(frozen=True)
class StopNow:
    """Event: the machine is to be stopped where it is."""


@dataclass(frozen=True)
class EngineEnded:
    """Event: the machine no longer runs here."""

    outcome: Outcome
    error: PvtimeError | None = None


@dataclass(frozen=True)
class SaveFailed:
    """Event: a save that the run's options ask for has failed, and the machine runs on."""

    error: PvtimeError


class Inbox:
    """A queue that any thread or signal handler fills and one thread empties.

    Everything is appended to deques, whose operations are atomic, so that a signal handler that interrupts
    the waiting thread can put without a lock.

    :param eager: wake the waiting thread for every byte of the console. Otherwise the console does not wake
        it: the UART transmits byte by byte, and a wake-up for each of a boot's 20 000 bytes would contend
        with the engine for the interpreter's lock.
    """

    def __init__(self, eager: bool = False, *, console_limit: int = CONSOLE_LIMIT) -> None:
        self._always_eager = self._eager = eager
        self._console_limit = console_limit
        self._console: deque[bytes] = deque()
        self._agent: deque[bytes] = deque()
        self._events: deque[object] = deque()
        self._inputs: dict[int, Callable[[], bool]] = {}
        self._held: set[int] = set()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._woken = False
        self.dropped = 0
        """Transmissions of the console that came above the limit."""

    def set_eager(self, eager: bool) -> None:
        """Wake for every byte of the console, or no longer; an inbox that was made eager stays so."""
        self._eager = eager or self._always_eager

    def console(self, data: bytes) -> None:
        """Queue console output."""
        if len(self._console) >= self._console_limit:
            self.dropped += 1
            return
        self._console.append(bytes(data))
        if self._eager:
            self.wake()

    def agent(self, data: bytes) -> None:
        """Queue output of the agent's serial port; the end of a line wakes."""
        if len(self._agent) >= self._console_limit:
            return
        self._agent.append(bytes(data))
        if b"\n" in data:
            self.wake()

    def put(self, event: object) -> None:
        """Queue an event and wake."""
        self._events.append(event)
        self.wake()

    def wake(self) -> None:
        """Make :meth:`wait` return."""
        if not self._woken:
            self._woken = True
            os.eventfd_write(self._wake, 1)

    def watch(self, fd: int, readable: Callable[[], bool]) -> None:
        """Call ``readable`` from :meth:`wait` whenever ``fd`` has input.

        While it returns False, it still has input to pass on: it is called again after
        :data:`RETRY_INTERVAL_S`, and not for new input.
        """
        self._inputs[fd] = readable

    def unwatch(self, fd: int) -> None:
        """Stop watching ``fd``."""
        self._inputs.pop(fd, None)
        self._held.discard(fd)

    def wait(self, timeout: float | None) -> None:
        """Wait up to ``timeout`` seconds (None: for ever) for something to take."""
        held = list(self._held)
        if held:
            timeout = RETRY_INTERVAL_S if timeout is None else min(RETRY_INTERVAL_S, timeout)
        free = [fd for fd in self._inputs if fd not in self._held]
        ready, _, _ = select.select([self._wake, *free], [], [], timeout)
        if self._wake in ready:
            os.eventfd_read(self._wake)
        for fd in [*ready, *held]:
            if fd in self._inputs:
                self._held.discard(fd)
                if not self._inputs[fd]() and fd in self._inputs:
                    self._held.add(fd)
        # Only now, before anything is taken: what is appended after the taking must wake again.
        self._woken = False

    def take_console(self) -> bytes:
        """Return the console's output since the last call."""
        chunks = _drain(self._console)
        return b"".join(chunks)

    def take_agent(self) -> bytes:
        """Return the agent's output since the last call."""
        chunks = _drain(self._agent)
        return b"".join(chunks)

    def take_events(self) -> list[object]:
        """Return the events since the last call, oldest first."""
        return _drain(self._events)

    def close(self) -> None:
        """Close the descriptor; nothing may be put any more."""
        os.close(self._wake)


def _drain(queue: deque[Item]) -> list[Item]:
    """Take the present items; those appended meanwhile wait for the next call."""
    return [queue.popleft() for _ in range(len(queue))]
