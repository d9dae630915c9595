# SPDX-License-Identifier: GPL-2.0-or-later
"""Names that other people chose, made safe to print.

A process sets its own name and command line, and a cgroup's name is its maker's: each may hold escape
sequences that move the cursor, and characters that reverse the line.
"""

from __future__ import annotations

from typing import Final

__all__ = ["NAME_LENGTH", "printable"]

NAME_LENGTH: Final = 80
"""Characters after which a name is cut."""


def printable(name: bytes | str, length: int = NAME_LENGTH) -> str:
    r"""Return a name as one line of printable characters, at most ``length`` of them.

    >>> printable(b"web\x1b[2J1"), printable(b"\xff")
    ('web\\x1b[2J1', '\\xff')
    """
    text = name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name
    text = text[: length + 1]
    safe = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return safe if len(safe) <= length else safe[: length - 1] + "…"
