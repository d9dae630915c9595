# SPDX-License-Identifier: GPL-2.0-or-later
"""The user's terminal as the guest's console: raw mode, the escape key, and the modes' restoration.

A ``finally`` restores the modes after exceptions and the signals that the session handles, but not after a
fault in native code or SIGKILL. So a small child process waits for the end of ours: when the pipe between the
two closes before anything was written to it, the child restores the terminal.
"""

from __future__ import annotations

import contextlib
import os
import signal
import termios
import tty
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final, NoReturn, Self

from pvtime.errors import UsageError
from pvtime.run.inbox import Inbox, QuitRequested

__all__ = [
    "DETACH_HELP",
    "DETACH_KEYS_HELP",
    "ESCAPE",
    "ESCAPE_HELP",
    "FIGURES",
    "HELP",
    "KEYS_HELP",
    "Keyboard",
    "Terminal",
]

ESCAPE: Final = 0x1D
"""Ctrl-], as in telnet: the key that shells and editors use least."""
QUIT: Final = ord("q")

HELP: Final = ord("?")
FIGURES: Final = ord("s")

ESCAPE_HELP: Final = "Ctrl-] q ends the run; Ctrl-] ? lists all keys"
KEYS_HELP: Final = (
    "Ctrl-] q       ends the run",
    "Ctrl-] s       shows the host's figures: stolen time per vCPU",
    "Ctrl-] ?       lists these keys",
    "Ctrl-] Ctrl-]  sends Ctrl-] to the guest",
)
"""Lines for the user."""

DETACH_HELP: Final = "Ctrl-] q detaches, and the machine runs on; Ctrl-] ? lists all keys"
DETACH_KEYS_HELP: Final = (
    "Ctrl-] q       detaches; the machine runs on",
    "Ctrl-] ?       lists these keys",
    "Ctrl-] Ctrl-]  sends Ctrl-] to the guest",
)
"""The same for the console of a machine in another process."""

OUTLIVED: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGTSTP,
    signal.SIGTTOU,
)
"""Signals that the child ignores. The terminal sends most of them to both processes, SIGTTOU to those in the
background."""


class Terminal:
    """The terminal at ``fd``. It forks when entered: enter it before there are threads and guest memory.

    :raises UsageError: ``fd`` is not a terminal.
    """

    def __init__(self, fd: int) -> None:
        if not os.isatty(fd):
            raise UsageError("an interactive run needs a terminal on standard input: run it without a pipe")
        self.fd = fd
        self._saved = termios.tcgetattr(fd)
        self._child = 0
        self._release = -1

    def __enter__(self) -> Self:
        read, self._release = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            self._guard(read)
        os.close(read)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()
        with contextlib.suppress(BrokenPipeError):  # the child was killed
            os.write(self._release, b".")
        os.close(self._release)
        os.waitpid(self._child, 0)

    def _guard(self, read: int) -> NoReturn:
        """Restore the terminal when the parent ends without a word; runs in the child."""
        try:
            for number in OUTLIVED:
                signal.signal(number, signal.SIG_IGN)
            low, high = sorted((self.fd, read))
            for begin, end in ((0, low), (low + 1, high), (high + 1, os.sysconf("SC_OPEN_MAX"))):
                if begin < end:  # CPython 3.11 takes an empty range from 0 for everything
                    os.closerange(begin, end)
            if os.read(read, 1) == b"":
                self.restore()
        finally:
            os._exit(0)

    @contextlib.contextmanager
    def raw(self) -> Iterator[None]:
        """Set raw mode, in which Ctrl-C too is a key for the guest, for the time of a ``with`` block."""
        try:
            tty.setraw(self.fd, termios.TCSANOW)  # the default waits until somebody has read all output
            yield
        finally:
            self.restore()

    def restore(self) -> None:
        """Restore the former modes; harmless when repeated, or when the terminal has gone."""
        with contextlib.suppress(termios.error):
            termios.tcsetattr(self.fd, termios.TCSANOW, self._saved)

    def size(self) -> os.terminal_size:
        """Return the size in characters; (0, 0) if the terminal has none."""
        try:
            return os.get_terminal_size(self.fd)
        except OSError:
            return os.terminal_size((0, 0))


class Keyboard:
    """Passes keys typed at ``fd`` to the guest by ``receive``, which returns how many bytes it took."""

    def __init__(self, fd: int, receive: Callable[[bytes], int], inbox: Inbox) -> None:
        self._fd = fd
        self._receive = receive
        self._inbox = inbox
        self.commands: dict[int, Callable[[], object]] = {}
        """Functions of the keys after the escape key, besides :data:`QUIT`."""
        self._escaped = False
        self._pending = b""

    def readable(self) -> bool:
        """Read keys and pass them on; return whether the guest took all of them."""
        if not self._pending:
            try:
                typed = os.read(self._fd, 4096)
            except OSError:
                typed = b""  # EIO: the terminal was hung up
            if not typed:
                self._inbox.unwatch(self._fd)
                self._inbox.put(QuitRequested())
            self._pending = self._filter(typed)
        self._pending = self._pending[self._receive(self._pending) :]
        return not self._pending

    def _filter(self, typed: bytes) -> bytes:
        """Return the keys for the guest, and carry out those for pvtime."""
        passed = bytearray()
        for key in typed:
            if self._escaped:
                self._escaped = False
                if key == QUIT:
                    self._inbox.put(QuitRequested())
                elif key == ESCAPE:
                    passed.append(key)
                elif key in self.commands:
                    self.commands[key]()
            elif key == ESCAPE:
                self._escaped = True
            else:
                passed.append(key)
        return bytes(passed)
