# SPDX-License-Identifier: GPL-2.0-or-later
"""What command-line values mean."""

from __future__ import annotations

import math
import re
from typing import Final

import click

from pvtime.engine.registry import AUTO, ENGINES

__all__ = ["engine_option", "key_values", "parse_size", "seconds", "size"]

UNITS: Final = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
"""Binary powers: a guest's memory is made of pages."""

engine_option: Final = click.option(
    "--engine",
    type=click.Choice([AUTO, *(kind.name for kind in ENGINES)]),
    default=AUTO,
    show_default=True,
    help="What executes the vCPUs.",
)
"""A command's option, for :func:`pvtime.engine.registry.choose`."""

SIZE_PATTERN = re.compile(r"([0-9]{1,18})\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Return the bytes that ``text`` says.

    >>> parse_size("512M"), parse_size("1GiB"), parse_size("4096")
    (536870912, 1073741824, 4096)

    :raises ValueError: it says none.
    """
    match = SIZE_PATTERN.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size: give a number such as 512M or 1G")
    return int(match[1]) << UNITS[match[2].upper()]


def size(_ctx: click.Context, _param: click.Parameter, value: str) -> int:
    """Convert a size to bytes; a click callback."""
    try:
        return parse_size(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def seconds(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
    """Convert a positive, finite number of seconds; a click callback."""
    if value is None:
        return None
    try:
        span = float(value)
    except ValueError:
        span = math.nan
    if not (math.isfinite(span) and span > 0):
        raise click.BadParameter(f"{value!r} is not a time: give a positive number of seconds")
    return span


def key_values(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Split each ``KEY=VALUE`` at its first ``=``; a click callback. The last of a key counts."""
    pairs = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not (key and equals):
            raise click.BadParameter(f"{value!r} is not KEY=VALUE")
        pairs[key] = text
    return pairs
