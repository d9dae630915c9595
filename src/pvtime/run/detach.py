# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in the background (``--detach``)."""

from __future__ import annotations

import os
import signal
from typing import Self

__all__ = ["Background"]


class Background:
    """A run in a child process of its own session, which keeps this terminal until the machine runs.

    Until then it prints what it has to, and dies with the process that waits for it.
    """

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid = pid
        """The child's, in the process that waits; 0 in the child."""
        self._pipe = pipe

    @classmethod
    def fork(cls) -> Self:
        """Fork, before there are threads and guest memory; return in both processes."""
        read, write = os.pipe()
        pid = os.fork()
        os.close(write if pid else read)
        if pid == 0:
            os.setsid()
        return cls(pid, read if pid else write)

    def wait(self) -> int:
        """Wait until the machine runs and return 0; if it never does, return the child's exit code."""
        started = False
        try:
            started = bool(os.read(self._pipe, 1))
        finally:
            os.close(self._pipe)
            if not started:
                os.kill(self.pid, signal.SIGTERM)  # Ctrl-C here; harmless for a child that has ended
                _, status = os.waitpid(self.pid, 0)
        return 0 if started else os.waitstatus_to_exitcode(status)

    def start(self) -> None:
        """Let go of the terminal: the machine runs. In the child."""
        null = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        os.close(null)
        os.write(self._pipe, b".")
        os.close(self._pipe)
