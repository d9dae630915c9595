# SPDX-License-Identifier: GPL-2.0-or-later
"""The live view of ``pvtime top``, on a terminal of the test's."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator

import pytest

from framework.wait import DEADLINE


class Screen:
    """A command on a terminal of 80 columns."""

    def __init__(self, *arguments: str) -> None:
        self.master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (24, 80))
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.text = ""
        environment = os.environ | {"TERM": "xterm", "PYTHONPATH": os.pathsep.join(sys.path)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pvtime", "top", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
        )

    def see(self, text: str) -> None:
        """Wait until a text was written."""
        end = time.monotonic() + DEADLINE
        while text not in self.text:
            assert time.monotonic() < end, self.text
            if select.select([self.master], [], [], 0.1)[0]:
                self.text += os.read(self.master, 65536).decode(errors="replace")

    def press(self, key: bytes) -> None:
        """Press a key."""
        self.text = ""
        os.write(self.master, key)

    def end(self) -> int:
        """Return the exit code."""
        end = time.monotonic() + DEADLINE
        while self.process.poll() is None:
            assert time.monotonic() < end
            if select.select([self.master], [], [], 0.05)[0]:
                self.text += os.read(self.master, 65536).decode(errors="replace")
        return self.process.returncode


@pytest.fixture
def screen() -> Iterator[Screen]:
    """Return pvtime top, which shows a new sample every hour."""
    screen = Screen("--interval", "3600")
    yield screen
    screen.process.kill()
    screen.process.wait()
    os.close(screen.master)
    os.close(screen.slave)


def test_keys_are_obeyed_at_once_and_the_terminal_is_left_as_it_was(screen: Screen) -> None:
    screen.see("s sort (stolen)")
    screen.press(b"s")
    screen.see("s sort (ran)")
    screen.press(b"\x1b[Bj")
    screen.press(b"s")
    screen.see("s sort (name)")
    screen.press(b"g")
    screen.see("g guests")
    screen.press(b"q")
    assert screen.end() == 0
    assert termios.tcgetattr(screen.slave) == screen.before


def test_ctrl_c_leaves_the_terminal_as_it_was_too(screen: Screen) -> None:
    screen.see("s sort (stolen)")
    screen.process.send_signal(signal.SIGINT)
    assert screen.end() == 130
    assert termios.tcgetattr(screen.slave) == screen.before
    assert "Traceback" not in screen.text
