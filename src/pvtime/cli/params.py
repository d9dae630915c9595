# SPDX-License-Identifier: GPL-2.0-or-later
"""Values of command-line options, and how they are parsed."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from pvtime.engine.registry import AUTO, ENGINES
from pvtime.errors import UsageError
from pvtime.numerals import WHOLE, parse_decimal, parse_whole

__all__ = [
    "FILE_NAME",
    "MAX_SECONDS",
    "WholeNumber",
    "break_option",
    "endpoint_options",
    "engine_option",
    "key_values",
    "parse_size",
    "parsed_by",
    "sample_interval",
    "seconds",
]

SIZE_UNITS: Final = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
"""Binary powers: a guest's memory is made of pages."""
SIZE_PATTERN: Final = rf"({WHOLE}) ?([KMGT]?)(?:i?B)?(?<! )"

MAX_SECONDS: Final = 10**9
"""31 years: the host's clocks end at 292."""

MIN_INTERVAL_S: Final = 0.01
MAX_INTERVAL_S: Final = 3600.0

T = TypeVar("T")


class WholeNumber(click.types.IntParamType):
    """A whole number from ``least`` to ``most``; its refusal says which numbers are possible."""

    def __init__(self, least: int, most: int | None = None) -> None:
        self._least = least
        self._most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number; click converts defaults too."""
        text = str(value)
        with contextlib.suppress(ValueError):
            number = parse_whole(text)
            if number >= self._least and (self._most is None or number <= self._most):
                return number
        possible = f"{self._least} or more" if self._most is None else f"{self._least} to {self._most}"
        return self.fail(f"{text!r} is not a possible number: give {possible}", param, ctx)


class FileName(click.Path):
    """A path, for a file that need not exist; "-" stays as it is."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        if str(value) == "" or "\0" in str(value):
            self.fail("the name of the file is empty" if not str(value) else "no name has a NUL", param, ctx)
        return super().convert(value, param, ctx)


FILE_NAME: Final = FileName()

engine_option: Final = click.option(
    "--engine",
    type=click.Choice([AUTO, *(kind.name for kind in ENGINES)]),
    default=AUTO,
    show_default=True,
    help="Engine that executes the vCPUs.",
)
"""Option of a command, for :func:`pvtime.engine.registry.choose`."""


break_option: Final = click.option(
    "--break",
    "mistake",
    metavar="NAME",
    help="Make a mistake with stolen time on purpose, for those who test a test of it; embedded engine only. "
    "docs/judge.md has the names.",
)
"""Option of a command, for the engine option :data:`pvtime.engine.base.BREAK`."""


_key_option: Final = click.option(
    "--key",
    type=FILE_NAME,
    metavar="FILE",
    help="Encrypt a tcp connection, and accept only a peer that has this key too: a file of which both sides "
    "need a copy. pvtime receive makes it if it does not exist.",
)
_insecure_option: Final = click.option(
    "--insecure",
    is_flag=True,
    help="Use tcp without encryption: anybody on the network may read the machine or send another.",
)


def endpoint_options(command: Callable[..., T]) -> Callable[..., T]:
    """Add the options ``key`` and ``insecure`` of a migration's address."""
    return _key_option(_insecure_option(command))


def parsed_by(parse: Callable[[Any], T]) -> Callable[[click.Context, click.Parameter, Any], T | None]:
    """Return a click callback that parses an option's value; None, for an option not given, stays None.

    :param parse: raises UsageError or ValueError; to its message the option's name is added.
    """

    def callback(_ctx: click.Context, _param: click.Parameter, value: Any) -> T | None:
        if value is None:
            return None
        try:
            return parse(value)
        except (UsageError, ValueError) as error:
            raise click.BadParameter(str(error)) from error

    return callback


def parse_size(text: str) -> int:
    """Return a size in bytes.

    >>> parse_size("512M"), parse_size("1GiB"), parse_size("4096")
    (536870912, 1073741824, 4096)

    :raises ValueError: ``text`` is not a size.
    """
    match = re.fullmatch(SIZE_PATTERN, text, re.IGNORECASE | re.ASCII)
    if match is None:
        raise ValueError(f"{text!r} is not a size: give a number such as 512M or 1G")
    return int(match[1]) << SIZE_UNITS[match[2].upper()]


def seconds(text: str) -> float:
    """Return a positive, finite number of seconds.

    :raises ValueError: ``text`` is not one.
    """
    try:
        span = parse_decimal(text)
    except ValueError:
        span = math.nan
    if not (math.isfinite(span) and span > 0):
        raise ValueError(f"{text!r} is not a time: give a positive number of seconds")
    if span > MAX_SECONDS:
        raise ValueError(f"{text!r} is too long: give {MAX_SECONDS} seconds or less")
    return span


def sample_interval(text: str) -> float:
    """Return the seconds between two samples.

    :raises ValueError: they are too few or too many.
    """
    interval = seconds(text)
    if not MIN_INTERVAL_S <= interval <= MAX_INTERVAL_S:
        raise ValueError(f"{text} s is not possible: give {MIN_INTERVAL_S:g} to {MAX_INTERVAL_S:g}")
    return interval


def key_values(texts: Iterable[str]) -> dict[str, str]:
    """Split each ``KEY=VALUE`` at its first ``=``. Of several with one key, the last counts.

    :raises ValueError: one has no key or no ``=``.
    """
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise ValueError(f"{text!r} is not of the form KEY=VALUE")
        pairs[key] = value
    return pairs
