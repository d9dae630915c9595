# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's console output: find the kernel's release in it, and make its lines safe to print."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["BANNER_WITHIN", "LINE_LIMIT", "Banner", "LineBuffer"]

LINE_LIMIT: Final = 4096
"""Bytes after which a line is broken: a guest need not end one."""

BANNER_WITHIN: Final = 1 << 16
"""Bytes of console output in which to look for the banner."""

LINUX_VERSION = rb"Linux version ([!-~]{1,64})\s"
"""The banner that every Linux kernel prints first (init/version-timestamp.c)."""
PRINTK = rb"(?m)^(?:\[[^\]\n]{1,24}\] ?){0,2}"
"""The beginning of a line, with the time and the caller where printk prints them."""
PANIC = PRINTK + rb"Kernel panic - not syncing"
"""The first line of a panic (kernel/panic.c, vpanic)."""
PANIC_END = PRINTK + rb"---\[ end Kernel panic - not syncing[^\n]*\s*\Z"
"""Its last line, with nothing behind it: from here on vpanic loops for ever with printk off. A kernel that
reboots of itself (``panic=N``) or has a crash kernel does not print it."""
HALT = PRINTK + rb"reboot: [^\n]*System halted[^\n]*\s*\Z"
"""The last line of a kernel that halts instead of powering off (kernel/reboot.c, kernel_halt)."""
PANIC_LENGTH: Final = 80
"""Bytes, at most, that :data:`PANIC` matches."""
TAIL_LENGTH: Final = 1200
"""Bytes at the output's end in which to look for a kernel's last line; vpanic's message has 1024 at most."""
ESCAPE = r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[ -/]*[0-~])"
"""ECMA-48 control sequences, and strings that set a window's title: none may reach the user's terminal."""
CONTROL = r"[\x00-\x08\x0b-\x1f\x7f-\x9f]"


class Banner:
    """Finds the kernel's release at the beginning of the console output, and a panic anywhere in it.

    :param release: the release, if it is known already.
    """

    def __init__(self, release: str | None = None) -> None:
        self._head = b""
        self._line = b""
        self._tail = b""
        self.release = release
        """Release, such as ``6.1.0-37-cloud-arm64``; None until the guest prints it."""
        self.panicked = False
        """Whether the guest has printed a kernel's panic."""

    @property
    def halted(self) -> bool:
        """Whether the last that the guest has printed is the end of a panic, or that its kernel halts.

        Such a kernel loops with interrupts off or with printk off, and nothing more comes from it.
        """
        panic_ended = self.panicked and re.search(PANIC_END, self._tail) is not None
        return panic_ended or re.search(HALT, self._tail) is not None

    def feed(self, data: bytes) -> None:
        """Take console output."""
        self._line += data
        self.panicked = self.panicked or re.search(PANIC, self._line) is not None
        self._line = self._line.rpartition(b"\n")[2][:PANIC_LENGTH]
        self._tail = (self._tail + data)[-TAIL_LENGTH:]
        if self.release is None and len(self._head) < BANNER_WITHIN:
            self._head += data
            if banner := re.search(LINUX_VERSION, self._head):
                self.release = banner[1].decode("ascii")


class LineBuffer:
    r"""Splits console output into lines.

    >>> buffer = LineBuffer()
    >>> buffer.feed(b"one\r\ntw"), buffer.feed(b"o\n")
    (['one'], ['two'])
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that ``data`` completes, without control sequences."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        while len(self._rest) > LINE_LIMIT:
            lines.append(self._rest[:LINE_LIMIT])
            self._rest = self._rest[LINE_LIMIT:]
        return [_clean(line) for line in lines]

    def flush(self) -> list[str]:
        """Return the unfinished line, if there is one."""
        rest, self._rest = self._rest, b""
        return [_clean(rest)] if rest else []


def _clean(line: bytes) -> str:
    return re.sub(CONTROL, "", re.sub(ESCAPE, "", line.decode("utf-8", "replace")))
