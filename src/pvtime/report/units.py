# SPDX-License-Identifier: GPL-2.0-or-later
"""Times and sizes as people read them."""

from __future__ import annotations

__all__ = ["difference", "percent", "size", "time"]


def time(ns: int) -> str:
    """Return a span of ``ns`` nanoseconds, in s: to the ms, and above 100 s in four digits or more.

    >>> time(4_998_878_240), time(123_456_000_000), time(86_400_000_000_000)
    ('4.999 s', '123.5 s', '86400 s')
    """
    digits = 3 if abs(ns) < 99_999_500_000 else 1 if abs(ns) < 9_999_950_000_000 else 0
    return f"{ns / 1e9:.{digits}f} s"


def difference(ns: int) -> str:
    """Return a difference with its sign, in the unit that shows it: exact below 1 us.

    >>> difference(0), difference(-7), difference(3_200_000)
    ('0 ns', '-7 ns', '+3.2 ms')
    """
    if ns == 0:
        return "0 ns"
    for unit, scale in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if abs(ns) >= scale:
            return f"{ns / scale:+.1f} {unit}"
    return f"{ns:+d} ns"


def percent(part: int, whole: int) -> str:
    """Return ``part`` in per cent of ``whole``, without a sign for that.

    >>> percent(1, 4)
    '25.0'
    """
    return f"{100 * part / whole:.1f}" if whole else "0.0"


def size(count: int) -> str:
    """Return ``count`` bytes in the largest binary unit that is not below 1.

    >>> size(512), size(36 << 20)
    ('512 B', '36.0 MiB')
    """
    if count < 1024:
        return f"{count} B"
    amount = float(count)
    for unit in ("KiB", "MiB"):
        amount /= 1024
        if amount < 1024:
            return f"{amount:.1f} {unit}"
    return f"{amount / 1024:.1f} GiB"
