# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers as users write them: ASCII digits, a point, and nothing else unless a pattern here says so.

Python's own int() and float() take the digits of all scripts, underscores, white space, "inf" and "nan".
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["DECIMAL", "WHOLE", "parse_decimal", "parse_whole"]

WHOLE: Final = "[0-9]{1,18}"
"""Pattern of a number of things."""
DECIMAL: Final = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
"""Pattern of a time or a percentage in a text with more in it."""

_SCIENTIFIC: Final = r"(?:[0-9]{1,18}(?:\.[0-9]{0,18})?|\.[0-9]{1,18})(?:[eE][+-]?[0-9]{1,3})?"


def parse_whole(text: str) -> int:
    """Return the number that a text is.

    :raises ValueError: it is none.
    """
    if not re.fullmatch(WHOLE, text):
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)


def parse_decimal(text: str) -> float:
    """Return the number that a text is, such as ``1.5``, ``.5`` or ``1e3``; infinity, if it is that large.

    :raises ValueError: it is none.
    """
    if not re.fullmatch(_SCIENTIFIC, text):
        raise ValueError(f"{text!r} is not a number")
    return float(text)
