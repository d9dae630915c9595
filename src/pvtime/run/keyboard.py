# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's console on the user's terminal: bytes both ways, and an escape key."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import ClassVar, Final, TextIO

from pvtime.report.model import Moment
from pvtime.run.inbox import Inbox
from pvtime.run.plan import Quit

__all__ = ["ANNOUNCEMENT", "ESCAPE", "Keyboard", "RawView"]

ESCAPE: Final = 0x1D
"""Ctrl-], telnet's; a shell and an editor use it least of all keys."""
QUIT: Final = ord("q")

ANNOUNCEMENT: Final = "pvtime: Ctrl-] q ends the run; Ctrl-] Ctrl-] sends Ctrl-] to the guest"


class Keyboard:
    """Passes what is typed at ``fd`` to the guest by ``receive``, which returns how many bytes it took."""

    def __init__(self, fd: int, receive: Callable[[bytes], int], inbox: Inbox) -> None:
        self._fd = fd
        self._receive = receive
        self._inbox = inbox
        self._escaped = False
        self._pending = b""

    def readable(self) -> bool:
        """Read and pass on; return whether the guest took everything."""
        if not self._pending:
            try:
                typed = os.read(self._fd, 4096)
            except OSError:
                typed = b""  # EIO: the terminal was hung up
            if not typed:
                self._inbox.unwatch(self._fd)
                self._inbox.put(Quit())
            self._pending = self._filter(typed)
        self._pending = self._pending[self._receive(self._pending) :]
        return not self._pending

    def _filter(self, typed: bytes) -> bytes:
        """Return what is for the guest, and obey what is for us."""
        passed = bytearray()
        for key in typed:
            if self._escaped:
                self._escaped = False
                if key == QUIT:
                    self._inbox.put(Quit())
                elif key == ESCAPE:
                    passed.append(key)
            elif key == ESCAPE:
                self._escaped = True
            else:
                passed.append(key)
        return bytes(passed)


class RawView:
    """Shows the console as it comes: the terminal belongs to the guest, and no table fits beside it."""

    interval: ClassVar[float | None] = None
    console_interval: ClassVar[float | None] = None

    def __init__(self, file: TextIO) -> None:
        self._out = file.buffer

    def console(self, data: bytes) -> None:
        """Pass the bytes on."""
        self._out.write(data)
        self._out.flush()

    def moment(self, moment: Moment) -> None:
        """Show nothing."""
