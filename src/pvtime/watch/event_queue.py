# SPDX-License-Identifier: GPL-2.0-or-later
"""Events of several rings in the order of their times, none before what was already taken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import Any, TypeAlias

__all__ = ["Event", "EventQueue"]

Event: TypeAlias = tuple[int, int, Any]
"""Time in ns, kind, and the record, which begins with its time."""


class EventQueue:
    """Takes events in any order and returns them by their times.

    A CPU can be stopped between the time of a record and its place in the ring (by the host's own hypervisor
    for milliseconds), and a ring is read while others are written. An event that comes after later ones were
    taken has their time: an interval that began there does not begin again before.
    """

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._taken_until = 0

    def add(self, events: Iterable[Event]) -> None:
        """Add events."""
        self._events += events
        self._events.sort(key=itemgetter(0))

    def take(self, until: int) -> Iterator[tuple[int, Any]]:
        """Remove the events up to a time; yield their kinds and records."""
        floor, taken = self._taken_until, 0
        for moment, kind, record in self._events:
            if moment > until:
                break
            taken += 1
            yield kind, record if moment >= floor else (floor, *record[1:])
        del self._events[:taken]
        self._taken_until = max(floor, until)
