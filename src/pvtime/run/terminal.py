# SPDX-License-Identifier: GPL-2.0-or-later
"""The user's terminal in raw mode, and out of it again whatever happens.

A ``finally`` covers exceptions and the signals that the session handles. It does not cover a fault in native
code or SIGKILL, so a small child process waits for the end of ours: when the pipe between the two closes
without the word that all is well, it restores the terminal.
"""

from __future__ import annotations

import contextlib
import os
import signal
import termios
import tty
from collections.abc import Iterator
from types import TracebackType
from typing import Final, NoReturn, Self

from pvtime.errors import UsageError

__all__ = ["Terminal"]

OUTLIVED: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGTSTP,
    signal.SIGTTOU,
)
"""What the child ignores; the terminal sends most of them to both of us, SIGTTOU to background processes."""


class Terminal:
    """The terminal at ``fd``. Enter it before threads run and guest memory is there: it forks.

    :raises UsageError: ``fd`` is no terminal.
    """

    def __init__(self, fd: int) -> None:
        if not os.isatty(fd):
            raise UsageError("--interactive needs a terminal on standard input: run it without a pipe")
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
        with contextlib.suppress(BrokenPipeError):  # somebody killed the child
            os.write(self._release, b".")
        os.close(self._release)
        os.waitpid(self._child, 0)

    def _guard(self, read: int) -> NoReturn:
        """Be the child."""
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
        """Hand every key to the guest, Ctrl-C too, for the time of a ``with`` block."""
        try:
            tty.setraw(self.fd)
            yield
        finally:
            self.restore()

    def restore(self) -> None:
        """Bring back the modes that the terminal had; harmless when repeated or when it has gone."""
        with contextlib.suppress(termios.error):
            termios.tcsetattr(self.fd, termios.TCSANOW, self._saved)

    def size(self) -> os.terminal_size:
        """Return the size in characters; (0, 0) where the terminal has none."""
        try:
            return os.get_terminal_size(self.fd)
        except OSError:
            return os.terminal_size((0, 0))
