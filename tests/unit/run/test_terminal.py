# SPDX-License-Identifier: GPL-2.0-or-later
"""The terminal of an interactive run: the console is on it, and it comes back whatever happens."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from framework.fake_images import PROGRAM, Images, make_images
from framework.wait import DEADLINE, wait_until
from pvtime.run.inbox import Inbox, QuitRequested
from pvtime.run.terminal import Keyboard


@pytest.fixture
def images(tmp_path: Path) -> Images:
    """Return files that pass."""
    return make_images(tmp_path)


class Pty:
    """A pseudo-terminal with ``pvtime run --interactive`` on it."""

    def __init__(self, images: Images, append: str) -> None:
        self.master, self.slave = os.openpty()
        self.modes = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(
            [*PROGRAM, "--interactive", *images.options, "--append", append],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONFAULTHANDLER": ""},
        )
        self.text = b""

    def read_until(self, wanted: bytes) -> None:
        """Read until ``wanted`` was printed."""
        end = time.monotonic() + DEADLINE
        while wanted not in self.text:
            ready, _, _ = select.select([self.master], [], [], end - time.monotonic())
            assert ready, f"no {wanted!r} in {self.text!r}"
            self.text += os.read(self.master, 4096)

    def is_raw(self) -> bool:
        """Whether keys reach the program unprocessed."""
        return not termios.tcgetattr(self.slave)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def ended(self) -> int:
        """Return the exit code, once the program has ended and the modes are back."""
        code = self.process.wait(DEADLINE)
        # The child that restores after a fault does so when it has seen the program's end.
        wait_until(lambda: termios.tcgetattr(self.slave) == self.modes, message="the modes are not back")
        return code


@pytest.fixture
def append() -> str:
    """Return the engine's command: none."""
    return ""


@pytest.fixture
def pty(images: Images, append: str) -> Iterator[Pty]:
    """Return an interactive run whose guest has printed its first line."""
    pty = Pty(images, append)
    try:
        pty.read_until(b"guest says hello\r\n")
        yield pty
    finally:
        pty.process.kill()
        pty.process.wait()
        os.close(pty.master)
        os.close(pty.slave)


def test_the_escape_key_is_announced_and_ends_the_run_with_the_last_table(pty: Pty) -> None:
    assert pty.is_raw()
    assert b"Ctrl-] q ends the run" in pty.text
    os.write(pty.master, b"\x1dq")
    pty.read_until(b"stopped after")
    assert pty.ended() == 0


def test_the_escape_key_and_a_question_mark_list_the_keys(pty: Pty) -> None:
    os.write(pty.master, b"\x1d?")
    pty.read_until(b"Ctrl-] Ctrl-]  sends Ctrl-] to the guest\r\n")
    for key in (b"q", b"s", b"?"):
        assert b"Ctrl-] " + key + b"  " in pty.text
    os.write(pty.master, b"\x1dq")
    assert pty.ended() == 0


def test_the_escape_key_and_s_show_the_hosts_figures(pty: Pty) -> None:
    os.write(pty.master, b"\x1ds")
    pty.read_until(b"s after the start")
    pty.read_until(b"truth")
    os.write(pty.master, b"\x1dq")
    assert pty.ended() == 0
    raw = pty.text.partition(b"s after the start")[2].partition(b"truth")[0]
    assert raw.count(b"\n") == raw.count(b"\r\n") > 0


def test_ctrl_c_is_the_guests(pty: Pty) -> None:
    os.write(pty.master, b"\x03")
    os.write(pty.master, b"\x1dq")
    assert pty.ended() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_restores_the_terminal_and_shows_the_last_table(pty: Pty, number: signal.Signals) -> None:
    pty.process.send_signal(number)
    pty.read_until(b"stopped after")
    assert pty.ended() == 128 + number


def test_a_process_that_is_killed_leaves_a_usable_terminal(pty: Pty) -> None:
    assert pty.is_raw()
    pty.process.kill()
    assert pty.ended() == -signal.SIGKILL


def test_a_fault_in_native_code_leaves_a_usable_terminal(pty: Pty) -> None:
    assert pty.is_raw()
    pty.process.send_signal(signal.SIGSEGV)
    assert pty.ended() == -signal.SIGSEGV


@pytest.mark.parametrize("append", ["trip"])
def test_a_crash_in_another_thread_restores_the_terminal_before_it_is_told(pty: Pty) -> None:
    pty.read_until(b"a bug")
    assert pty.ended() == 1


class Guest:
    """A serial port that takes ``room`` bytes at a time."""

    def __init__(self, room: int = 100) -> None:
        self.room = room
        self.got = b""

    def receive(self, data: bytes) -> int:
        """Take what there is room for."""
        self.got += data[: self.room]
        return min(self.room, len(data))


def typed(guest: Guest, *keys: bytes) -> Inbox:
    """Type ``keys``, one piece at a time, and return the inbox."""
    inbox = Inbox()
    read, write = os.pipe()
    inbox.watch(read, Keyboard(read, guest.receive, inbox).readable)
    for piece in keys:
        os.write(write, piece)
        inbox.wait(1)
    os.close(write)
    os.close(read)
    return inbox


def test_the_escape_key_twice_is_one_for_the_guest() -> None:
    guest = Guest()
    assert typed(guest, b"a\x1d", b"\x1db").take_events() == []
    assert guest.got == b"a\x1db"


def test_the_escape_key_before_another_key_swallows_both() -> None:
    guest = Guest()
    assert typed(guest, b"a\x1dxb").take_events() == []
    assert guest.got == b"ab"


def test_the_escape_key_and_q_quit() -> None:
    guest = Guest()
    assert typed(guest, b"a", b"\x1d", b"q").take_events() == [QuitRequested()]
    assert guest.got == b"a"


def test_what_the_guest_does_not_take_at_once_is_offered_again_in_order() -> None:
    guest = Guest(room=3)
    inbox = typed(guest, b"abcdefgh")
    assert guest.got == b"abc"
    inbox.wait(0.1)
    inbox.wait(0.1)
    assert guest.got == b"abcdefgh"


def test_a_terminal_that_was_hung_up_ends_the_run() -> None:
    inbox = Inbox()
    read, write = os.pipe()
    inbox.watch(read, Keyboard(read, Guest().receive, inbox).readable)
    os.close(write)
    inbox.wait(1)
    assert inbox.take_events() == [QuitRequested()]
    os.close(read)
