# SPDX-License-Identifier: GPL-2.0-or-later
"""A process that takes the CPU and the caches from the calling thread, when asked."""

from __future__ import annotations

import os
import subprocess
import sys
from types import TracebackType
from typing import Final, Self

from pvtime.errors import EngineError

__all__ = ["COPIED", "Neighbour"]

COPIED: Final = 1 << 20
"""Bytes that it copies each time: more than a first-level cache."""

PROGRAM: Final = f"""
import os
memory = bytearray({COPIED})
while os.read(0, 1):
    bytes(memory)
    os.write(1, b"x")
"""


class Neighbour:
    """The process. It inherits the CPUs that the caller may use."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C in the terminal is its caller's alone
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.pid = self._process.pid
        self._ask = self._process.stdin.fileno()
        self._answer = self._process.stdout.fileno()

    def __enter__(self) -> Self:
        """Return it, once it runs."""
        try:
            self.take_cpu()
        except BaseException:
            self._end()
            raise
        return self

    def take_cpu(self) -> None:
        """Let the neighbour run, and wait for its answer: the calling thread is scheduled out meanwhile.

        :raises EngineError: it has ended.
        """
        try:
            os.write(self._ask, b"x")
            answered = os.read(self._answer, 1)
        except BrokenPipeError:
            answered = b""
        if not answered:
            raise EngineError("the process that preempts the vCPU has ended")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self._end()

    def _end(self) -> None:
        self._process.kill()
        with self._process:
            pass
