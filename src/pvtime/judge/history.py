# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's figures over time: between which a figure was at a moment that is known later."""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["HostHistory", "HostReading", "host_clock_ns"]

MAX_READINGS: Final = 20_000
"""Readings that differ and are kept: 40 s of a host that steals all the time."""


def host_clock_ns() -> int:
    """Return the host's CLOCK_MONOTONIC_RAW: as a guest's counter it is not slewed by NTP."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)


@dataclass(frozen=True)
class HostReading:
    """The host's figures, by vCPU, in ns, and its clock before and after they were read."""

    stolen: Mapping[int, int]
    begun_ns: int
    ended_ns: int

    @classmethod
    def take(cls, read: Callable[[], Mapping[int, int]]) -> HostReading:
        """Return what ``read`` returns now."""
        begun = host_clock_ns()
        stolen = read()
        return cls(stolen, begun, host_clock_ns())


class HostHistory:
    """Readings in the order of their times. Of equal ones in a row the first and the last are kept."""

    def __init__(self) -> None:
        self._readings: list[HostReading] = []

    def add(self, reading: HostReading) -> None:
        """Take the next reading."""
        last = self._readings[-2:]
        if len(last) == 2 and last[0].stolen == last[1].stolen == reading.stolen:
            self._readings.pop()
        elif len(self._readings) == 2 * MAX_READINGS:
            del self._readings[:MAX_READINGS]
        self._readings.append(reading)

    def knows(self, cpu: int) -> bool:
        """Whether the host has ever known the vCPU."""
        return any(cpu in reading.stolen for reading in self._readings)

    def bounds(self, cpu: int, earliest_ns: int, latest_ns: int) -> tuple[int, int] | None:
        """Return a vCPU's figure before and after a moment that was between two times of the host's clock.

        None: no reading is older, or in between the host did not know the vCPU.
        """
        readings = self._readings
        before = bisect_right(readings, earliest_ns, key=lambda reading: reading.ended_ns) - 1
        after = bisect_left(readings, latest_ns, key=lambda reading: reading.begun_ns)
        if before < 0 or after == len(readings):
            return None
        between = readings[before : after + 1]
        if not all(cpu in reading.stolen for reading in between):
            return None
        return between[0].stolen[cpu], between[-1].stolen[cpu]
