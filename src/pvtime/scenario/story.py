# SPDX-License-Identifier: GPL-2.0-or-later
"""What a scenario is, and what it tells: steps, and findings that are compared with what is expected."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from pvtime.images.cache import FetchProgress
from pvtime.steal.placement import PlacementName

if TYPE_CHECKING:
    from pvtime.scenario.stage import Stage

__all__ = ["Claim", "Event", "Finding", "Real", "Scenario", "Step", "Tell"]


@dataclass(frozen=True)
class Claim:
    """A sentence of the thread "Re: [PATCH 0/9] arm64: Stolen time support" of August 2019."""

    author: str
    words: str


@dataclass(frozen=True)
class Step:
    """Something that was done, and what was seen; lines of it that are to stay lines, such as a hexdump."""

    text: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """What a run has shown, in words that do not differ from run to run: a cell of the table in the docs."""

    topic: str
    """The row."""
    seen: str
    expected: str

    @property
    def holds(self) -> bool:
        """Whether it is as expected."""
        return self.seen == self.expected


Event: TypeAlias = Step | Finding
Tell: TypeAlias = "Callable[[Stage], Iterator[Event]]"
Real: TypeAlias = Callable[[FetchProgress, PlacementName], Iterator[Event]]


@dataclass(frozen=True)
class Scenario:
    """Something that can happen to the memory that stolen time is written to."""

    name: str
    shows: str
    """One line."""
    tell: Tell
    """Runs it for one placement on one engine.

    What it raises: UsageError where the engine lacks something, which the message names; another PvtimeError
    where the guest did not do its part.
    """
    claims: tuple[Claim, ...] = ()
    """What of the thread it tests; empty: it is of the field, not of the thread."""
    real: Real | None = None
    """Runs it with Debian's kernel on the embedded engine; None: Linux cannot be brought to do this."""
