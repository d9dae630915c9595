# SPDX-License-Identifier: GPL-2.0-or-later
"""Quartiles, and intervals for a median that assume no distribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Final

__all__ = ["CONFIDENCE", "MedianInterval", "Quartiles", "difference_of", "median_interval", "quartiles"]

CONFIDENCE: Final = 0.99
"""Probability with which an interval contains the true figure."""


@dataclass(frozen=True)
class Quartiles:
    """The values below which a quarter, half and three quarters of ``count`` samples are."""

    count: int
    lower: float
    median: float
    upper: float


@dataclass(frozen=True)
class MedianInterval:
    """A median of samples, and the interval that contains the median of their distribution."""

    median: float
    low: float
    high: float
    confidence: float
    """Probability of that: the interval's own, which is at least the one that was asked for."""


def quartiles(samples: Sequence[int]) -> Quartiles | None:
    """Return the quartiles of two or more samples; None: there are fewer."""
    if len(samples) < 2:
        return None
    lower, middle, upper = quantiles(samples, n=4, method="inclusive")
    return Quartiles(len(samples), lower, middle, upper)


def median_interval(samples: Sequence[int], confidence: float) -> MedianInterval | None:
    """Return the narrowest symmetric pair of order statistics around the median that has ``confidence``.

    Each sample is below the true median with a probability of a half at most, whatever the distribution, so
    the number of those below is binomial: the interval of the sign test. It assumes that the samples are
    independent and have the same median. None: there are too few samples.
    """
    count = len(samples)
    allowed = round((1 - confidence) * 10**9) * 2**count  # of both tails together, exactly, in 10^9
    outside, chance, rank = 0, 1, 0
    while rank < count // 2 and 2 * (outside + chance) * 10**9 <= allowed:
        outside += chance
        chance = chance * (count - rank) // (rank + 1)
        rank += 1
    if rank == 0:
        return None
    ordered = sorted(samples)
    inside = 1 - 2 * outside / 2**count
    return MedianInterval(median(ordered), ordered[rank - 1], ordered[count - rank], inside)


def difference_of(measured: MedianInterval, control: MedianInterval) -> MedianInterval:
    """Return ``measured`` less ``control``: its interval contains every difference of what both may be."""
    return MedianInterval(
        measured.median - control.median,
        measured.low - control.high,
        measured.high - control.low,
        measured.confidence + control.confidence - 1,
    )
