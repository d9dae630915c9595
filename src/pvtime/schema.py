# SPDX-License-Identifier: GPL-2.0-or-later
"""Ranges of a saved state's fields, declared beside their types: ``Annotated[int, within(0, 7)]``.

:mod:`pvtime.snapshot.codec` checks them when it decodes a document, which comes from a file or a peer. What
depends on another field, or on the machine, its dataclass checks itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sized
from typing import Annotated, Any, TypeAlias

from pvtime.records import dataclass

__all__ = ["U8", "U16", "U32", "U64", "U128", "Rule", "bits", "length", "matching", "within"]


@dataclass(frozen=True)
class Rule:
    """A condition for the value of a field."""

    holds: Callable[[Any], object]
    text: str
    """Completes "it is not ..."."""


def within(low: int, high: int, step: int = 1) -> Rule:
    """Accept the multiples of ``step`` from ``low`` to ``high``."""
    limits = f"from {_power(low)} to {_power(high)}"
    if step == 1:
        return Rule(lambda value: low <= value <= high, f"a number {limits}")
    return Rule(lambda value: low <= value <= high and value % step == 0, f"a multiple of {step:#x} {limits}")


def bits(mask: int) -> Rule:
    """Accept the numbers that have no other bits than ``mask``."""
    return Rule(lambda value: value & ~mask == 0, f"a number with no bits but {mask:#x}")


def matching(pattern: str, text: str) -> Rule:
    """Accept the texts that match a regular expression as a whole.

    :param text: name of such a text, for messages.
    """
    compiled = re.compile(pattern)
    return Rule(compiled.fullmatch, text)


def length(low: int, high: int) -> Rule:
    """Accept lists, texts or bytes of so many items."""

    def holds(value: Sized) -> bool:
        return low <= len(value) <= high

    return Rule(holds, f"of length {low}" if low == high else f"of a length from {low} to {high}")


def _power(number: int) -> str:
    """Return a number in decimal; limits of 2^16 and more as powers of two."""
    if number.bit_length() <= 16:
        return str(number)
    if number < 0:
        return f"-({_power(-number)})"
    return f"2^{number.bit_length()} - 1" if number & (number + 1) == 0 else f"{number:#x}"


U8: TypeAlias = Annotated[int, within(0, (1 << 8) - 1)]
U16: TypeAlias = Annotated[int, within(0, (1 << 16) - 1)]
U32: TypeAlias = Annotated[int, within(0, (1 << 32) - 1)]
U64: TypeAlias = Annotated[int, within(0, (1 << 64) - 1)]
U128: TypeAlias = Annotated[int, within(0, (1 << 128) - 1)]
