# SPDX-License-Identifier: GPL-2.0-or-later
"""What the engine's threads and the signal handlers tell the main thread."""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Callable
from typing import TypeVar

__all__ = ["CONSOLE_LIMIT", "HOLD", "Inbox"]

CONSOLE_LIMIT = 1 << 20
"""Transmissions kept until the main thread takes them. A guest may print faster than a terminal shows, and
memory is the host's: what comes on top is counted and dropped. Waiting instead would let a blocked terminal
hold the engine's thread, and with it :meth:`~pvtime.engine.base.Engine.stop`."""


HOLD = 0.05
"""Seconds after which input that could not be passed on is offered again."""

Item = TypeVar("Item")


class Inbox:
    """Any thread or signal handler puts, one thread waits and takes.

    Everything is appended to deques, whose operations are atomic, so that a signal handler that interrupts
    the waiting thread can put without a lock. The console does not wake the waiting thread unless
    ``eager``: the UART transmits byte by byte, and a wake-up for each of a boot's 20 000 bytes would
    contend with the engine for the interpreter's lock.
    """

    def __init__(self, eager: bool = False) -> None:
        self._eager = eager
        self._console: deque[bytes] = deque()
        self._agent: deque[bytes] = deque()
        self._events: deque[object] = deque()
        self._inputs: dict[int, Callable[[], bool]] = {}
        self._held: set[int] = set()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._woken = False
        self.dropped = 0
        """Transmissions of the console that nobody took in time."""

    def console(self, data: bytes) -> None:
        """Take what the guest wrote to its console."""
        if len(self._console) >= CONSOLE_LIMIT:
            self.dropped += 1
            return
        self._console.append(bytes(data))
        if self._eager:
            self.wake()

    def agent(self, data: bytes) -> None:
        """Take what the guest wrote to the agent's serial port; the end of a line wakes."""
        if len(self._agent) >= CONSOLE_LIMIT:
            return
        self._agent.append(bytes(data))
        if b"\n" in data:
            self.wake()

    def put(self, event: object) -> None:
        """Hand over an event and wake."""
        self._events.append(event)
        self.wake()

    def wake(self) -> None:
        """Make :meth:`wait` return."""
        if not self._woken:
            self._woken = True
            os.eventfd_write(self._wake, 1)

    def watch(self, fd: int, readable: Callable[[], bool]) -> None:
        """Call ``readable`` from :meth:`wait` whenever ``fd`` has input.

        While it returns False, what it read before is not yet disposed of: it is called again after
        :data:`HOLD` seconds and not for new input.
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
            timeout = HOLD if timeout is None else min(HOLD, timeout)
        free = [fd for fd in self._inputs if fd not in self._held]
        ready, _, _ = select.select([self._wake, *free], [], [], timeout)
        if self._wake in ready:
            os.eventfd_read(self._wake)
        for fd in [*ready, *held]:
            if fd in self._inputs:
                self._held.discard(fd)
                if not self._inputs[fd]() and fd in self._inputs:
                    self._held.add(fd)
        # Only now, before anything is taken: whoever appends later than the taking wakes again.
        self._woken = False

    def take_console(self) -> bytes:
        """Return what the console brought since the last call."""
        chunks = _drain(self._console)
        return b"".join(chunks)

    def take_agent(self) -> bytes:
        """Return what the agent sent since the last call."""
        chunks = _drain(self._agent)
        return b"".join(chunks)

    def take_events(self) -> list[object]:
        """Return the events since the last call, oldest first."""
        return _drain(self._events)

    def close(self) -> None:
        """Give the descriptor back; nothing may put any more."""
        os.close(self._wake)


def _drain(queue: deque[Item]) -> list[Item]:
    """Take what is there now; what is appended meanwhile waits for the next call."""
    return [queue.popleft() for _ in range(len(queue))]
