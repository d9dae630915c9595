# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest on a terminal, as a user has it who gave ``--interactive``."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import sys
import termios
import time
from contextlib import closing
from pathlib import Path

from framework.wait import DEADLINE

__all__ = ["PVTIME", "Console", "save_at_prompt"]

PVTIME = [sys.executable, "-m", "pvtime"]


class Console:
    """An interactive guest on a pseudo-terminal."""

    def __init__(self, *command: str, rows: int = 24, columns: int = 80) -> None:
        self.master, self.slave = os.openpty()
        self.modes = termios.tcgetattr(self.slave)
        self.resize(rows, columns)
        self.process = subprocess.Popen(
            [*PVTIME, *command, "--interactive"],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env=os.environ | {"TERM": "vt100"},
        )
        self.text = b""

    def resize(self, rows: int, columns: int) -> None:
        """Give the terminal another size, as a window does."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        """Type."""
        os.write(self.master, keys)

    def expect(self, wanted: bytes) -> None:
        """Read until ``wanted`` comes, and forget what was before it."""
        end = time.monotonic() + DEADLINE
        while wanted not in self.text:
            ready, _, _ = select.select([self.master], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"no {wanted!r} in {self.text[-500:]!r}"
            self.text += os.read(self.master, 4096)
        self.text = self.text.partition(wanted)[2]

    def close(self) -> None:
        """Take it away."""
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


def save_at_prompt(directory: Path) -> None:
    """Boot an interactive guest, set its shell's X to ``kept``, and save it."""
    control = directory.with_suffix(".control")
    with closing(Console("run", "--memory", "256M", "--control", str(control))) as console:
        console.expect(b"# ")
        console.type(b"X=kept; echo se''t\r")
        console.expect(b"set\r\n")
        save = [*PVTIME, "save", str(control), str(directory)]
        done = subprocess.run(save, capture_output=True, text=True, timeout=DEADLINE, check=False)
        assert done.returncode == 0, done.stderr
        console.expect(b"saved after")
        assert console.process.wait(DEADLINE) == 0
