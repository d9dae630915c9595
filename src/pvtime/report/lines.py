# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's console: the kernel's banner in it, and its lines made safe to print."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["BANNER_WITHIN", "LINE_LIMIT", "Banner", "LineBuffer"]

LINE_LIMIT: Final = 4096
"""Bytes after which a line is broken: a guest need not ever end one."""

BANNER_WITHIN: Final = 1 << 16
"""Bytes of console output in which the banner is looked for."""

LINUX_VERSION = re.compile(rb"Linux version ([!-~]{1,64})\s")
"""The banner with which every Linux kernel starts (init/version-timestamp.c)."""
ESCAPE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[ -/]*[0-~])")
"""ECMA-48 control sequences, and the strings that set a window's title: the terminal is the user's."""
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Banner:
    """Finds the kernel's release in what the guest prints first."""

    def __init__(self) -> None:
        self._head = b""
        self.release: str | None = None
        """Release, such as ``6.1.0-37-cloud-arm64``; None until it was printed."""

    def feed(self, data: bytes) -> None:
        """Take console output."""
        if self.release is None and len(self._head) < BANNER_WITHIN:
            self._head += data
            if banner := LINUX_VERSION.search(self._head):
                self.release = banner[1].decode("ascii")


class LineBuffer:
    r"""Keeps what has no end of line yet.

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
        """Return the line that was begun, if one was."""
        rest, self._rest = self._rest, b""
        return [_clean(rest)] if rest else []


def _clean(line: bytes) -> str:
    return CONTROL.sub("", ESCAPE.sub("", line.decode("utf-8", "replace")))
