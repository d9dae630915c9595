# SPDX-License-Identifier: GPL-2.0-or-later
"""Schedules of time to steal on purpose (docs/steal.md has the grammar), and the steal that a vCPU has due.

All times are in ns since the engine's start, without those at which the machine was paused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from pvtime.errors import UsageError
from pvtime.numerals import DECIMAL
from pvtime.records import dataclass

__all__ = ["MIN_PERIOD_NS", "NOTHING", "Item", "PendingSteal", "Schedule"]

DEFAULT_PERIOD_NS: Final = 100_000_000
MIN_PERIOD_NS: Final = 1_000_000
"""Nobody is brought off a CPU and put back at a microsecond's notice."""

UNITS: Final = {"s": 10**9, "ms": 10**6, "us": 10**3, None: 10**9}

_TIME: Final = rf"({DECIMAL})(s|ms|us)?"
_ITEM: Final = (
    rf"(?:(?P<vcpus>[0-9,-]+):)?"
    rf"(?:(?P<percent>{DECIMAL})%|(?P<amount>[0-9.]+[mu]?s?))"
    rf"(?:/(?P<period>[0-9.]+[mu]?s?))?"
    rf"(?:@(?P<start>[0-9.]+[mu]?s?)(?:-(?P<end>[0-9.]+[mu]?s?))?)?"
)
_TOO_LONG: Final = 10**9
"""The least number that has more digits than :data:`DECIMAL` takes."""
_VCPUS: Final = r"([0-9]{1,3})(?:-([0-9]{1,3}))?"


@dataclass(frozen=True)
class Item:
    """``amount_ns`` of each period from ``start_ns`` to ``end_ns``, or once.

    :raises UsageError: a period owes nothing or more than it has, or the window has no room for one.
    """

    amount_ns: int
    period_ns: int | None = None
    """None: once."""
    start_ns: int = 0
    end_ns: int | None = None
    """None: for ever."""
    vcpus: frozenset[int] | None = None
    """None: all."""

    def __post_init__(self) -> None:
        window = None if self.end_ns is None else self.end_ns - self.start_ns
        if self.amount_ns <= 0:
            raise UsageError("the amount is zero")
        if window is not None and window < (self.period_ns or 1):
            raise UsageError("the time from FROM to TO is shorter than a period")
        room = self.period_ns or window
        if room is not None and self.amount_ns > room:
            longer_than = "the period" if self.period_ns else "the time from FROM to TO"
            raise UsageError(f"the amount is longer than {longer_than}")

    @classmethod
    def parse(cls, text: str) -> Item:
        """Return the item that ``text`` says.

        >>> Item.parse("1:4s@10").start_ns
        10000000000

        :raises UsageError: it is none, and names it.
        """
        try:
            return cls._parse(text)
        except UsageError as error:
            raise UsageError(f"steal schedule item {text!r}: {error}") from error

    @classmethod
    def _parse(cls, text: str) -> Item:
        if (match := re.fullmatch(_ITEM, text)) is None:
            raise UsageError("write [VCPUS:]AMOUNT[/PERIOD][@FROM[-TO]], such as 0-1:30%@5-10 or 4s@10")
        period = _time(match["period"]) if match["period"] else None
        if match["percent"]:
            from decimal import Decimal

            period = DEFAULT_PERIOD_NS if period is None else period
            amount = int(Decimal(match["percent"]) * period / 100)
        else:
            amount = _time(match["amount"])
        if period is not None and period < MIN_PERIOD_NS:
            raise UsageError("a period must be at least 1 ms long")
        return cls(
            amount,
            period,
            _time(match["start"]) if match["start"] else 0,
            _time(match["end"]) if match["end"] else None,
            _vcpus(match["vcpus"]) if match["vcpus"] else None,
        )

    def __str__(self) -> str:
        """Return the text that :meth:`parse` takes for this item."""
        vcpus = "" if self.vcpus is None else ",".join(map(str, sorted(self.vcpus))) + ":"
        period = "" if self.period_ns is None else "/" + _text(self.period_ns)
        window = ""
        if self.end_ns is not None:
            window = f"@{_text(self.start_ns)}-{_text(self.end_ns)}"
        elif self.start_ns:
            window = f"@{_text(self.start_ns)}"
        return f"{vcpus}{_text(self.amount_ns)}{period}{window}"

    @property
    def periods(self) -> int | None:
        """Number of periods; None: no end. One that does not fit whole into the window is none."""
        if self.period_ns is None:
            return 1
        return None if self.end_ns is None else (self.end_ns - self.start_ns) // self.period_ns

    def begin(self, period: int) -> int | None:
        """Return when a period begins; None where it does not exist."""
        if self.periods is not None and period >= self.periods:
            return None
        return self.start_ns + period * (self.period_ns or 0)

    def begun(self, now: int) -> int:
        """Return how many periods have begun."""
        if now < self.start_ns:
            return 0
        count = 1 if self.period_ns is None else (now - self.start_ns) // self.period_ns + 1
        return count if self.periods is None else min(count, self.periods)

    def ended(self, now: int) -> int:
        """Return how many periods are over."""
        if self.period_ns is None:
            return int(self.end_ns is not None and now >= self.end_ns)
        count = max(0, now - self.start_ns) // self.period_ns
        return count if self.periods is None else min(count, self.periods)


def _time(text: str) -> int:
    """Return a time in ns; a number without a unit is in s."""
    if (match := re.fullmatch(_TIME, text)) is None:
        raise UsageError(f"{text} is not a time: give a number with s, ms or us")
    from decimal import Decimal

    return int(Decimal(match[1]) * UNITS[match[2]])


def _text(ns: int) -> str:
    """Return a time as :func:`_time` takes it."""
    for unit in ("s", "ms"):
        if ns % UNITS[unit] == 0 and ns // UNITS[unit] < _TOO_LONG:
            return f"{ns // UNITS[unit]}{unit}"
    from decimal import Decimal

    return f"{Decimal(ns) / UNITS['s']:f}s"


def _vcpus(text: str) -> frozenset[int]:
    """Return the vCPUs of a list such as ``0,2-3``."""
    chosen: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(_VCPUS, part)
        first = int(match[1]) if match else 1
        last = int(match[2] or first) if match else 0
        if first > last:
            raise UsageError(f"{text!r} is not a list of vCPUs: write 0, 0-3 or 0,2")
        chosen.update(range(first, last + 1))
    return frozenset(chosen)


@dataclass(frozen=True)
class Schedule:
    """The time to steal on purpose.

    :raises UsageError: items without an end leave a vCPU no time: it would never run again.
    """

    items: tuple[Item, ...] = ()
    pauses: bool = False
    """Time for which the machine is paused, or its process is stopped, is stolen too."""

    def __post_init__(self) -> None:
        endless = [item for item in self.items if item.period_ns is not None and item.end_ns is None]
        if not endless:
            return
        from fractions import Fraction  # most runs have no schedule and need none of it

        named = frozenset[int]().union(*(item.vcpus or () for item in endless))
        for vcpu in (None, *sorted(named)):  # None: a vCPU that no item names
            share = sum(
                (
                    Fraction(item.amount_ns, item.period_ns or 1)
                    for item in endless
                    if item.vcpus is None or vcpu in item.vcpus
                ),
                Fraction(0),
            )
            if share >= 1:
                whose = "every vCPU" if vcpu is None else f"vCPU {vcpu}"
                raise UsageError(
                    f"the steal schedule takes {float(share):.0%} of {whose} without end, so that it never "
                    "runs: take less than 100%, or give an end, such as @5-10"
                )

    @classmethod
    def parse(cls, texts: Iterable[str], *, pauses: bool = False) -> Schedule:
        """Return the schedule of some items.

        :raises UsageError: one of them is none, and is named.
        """
        return cls(tuple(map(Item.parse, texts)), pauses)

    def __bool__(self) -> bool:
        return bool(self.items)

    def check_vcpus(self, vcpus: int) -> None:
        """Check that there are the vCPUs it speaks of.

        :raises UsageError: there is one that a machine with so many has not.
        """
        strangers = {vcpu for item in self.items for vcpu in item.vcpus or () if vcpu >= vcpus}
        if strangers:
            raise UsageError(
                f"the steal schedule names vCPU {min(strangers)}, but the last one is vCPU {vcpus - 1}"
            )

    def pending(self, vcpu: int) -> PendingSteal:
        """Return the steal that one vCPU has before it."""
        return PendingSteal([item for item in self.items if item.vcpus is None or vcpu in item.vcpus])


NOTHING: Final = Schedule()
"""The schedule that steals nothing."""


class PendingSteal:
    """The steal that one vCPU has before it. Each period's quota is injected whole, or expires whole where
    the vCPU had no use for a CPU.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = list(items)
        self._next = [0 for _ in self._items]
        """For each item the first period that was neither claimed nor has expired."""

    def next_due(self) -> int | None:
        """Return since when, or from when on, a quota is due; None: never again."""
        begins = [item.begin(at) for item, at in zip(self._items, self._next, strict=True)]
        return min((begin for begin in begins if begin is not None), default=None)

    def claim(self, now: int) -> int:
        """Return the quota that is due at ``now``; it counts as injected from here on."""
        quota = 0
        for at, item in enumerate(self._items):
            begun = max(item.begun(now), self._next[at])
            quota += (begun - self._next[at]) * item.amount_ns
            self._next[at] = begun
        return quota

    def expire(self, now: int) -> None:
        """Drop the periods that are over at ``now``, when the vCPU wakes."""
        self._next = [max(at, item.ended(now)) for item, at in zip(self._items, self._next, strict=True)]
