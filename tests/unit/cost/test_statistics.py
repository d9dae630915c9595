# SPDX-License-Identifier: GPL-2.0-or-later
"""Quartiles and the interval of a median: against counting by hand, and against what their names promise."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvtime.cost.statistics import MedianInterval, difference_of, median_interval, quartiles

SAMPLES = st.lists(st.integers(-(10**9), 10**9), max_size=60)


@pytest.mark.parametrize(
    ("count", "ranks"),
    [(7, None), (8, (1, 8)), (10, (1, 10)), (12, (2, 11)), (20, (4, 17)), (50, (16, 35)), (100, (37, 64))],
)
def test_the_ranks_are_those_of_the_tables_of_the_sign_test(
    count: int, ranks: tuple[int, int] | None
) -> None:
    # Conover, Practical Nonparametric Statistics; R: qbinom(0.005, n, 0.5).
    interval = median_interval(range(1, count + 1), 0.99)
    assert (interval and (interval.low, interval.high)) == ranks


@pytest.mark.parametrize("count", [8, 9, 10])
def test_the_confidence_is_the_share_of_all_outcomes_that_contain_the_median(count: int) -> None:
    # Every sample is above or below the true median, 0, with a probability of a half: count the outcomes.
    interval = median_interval(range(count), 0.95)
    assert interval is not None
    outcomes = [median_interval(signs, 0.95) for signs in itertools.product((-1, 1), repeat=count)]
    containing = sum(found is not None and found.low <= 0 <= found.high for found in outcomes)
    assert Fraction(interval.confidence) == Fraction(containing, 2**count)
    assert interval.confidence >= 0.95


@given(SAMPLES, st.sampled_from([0.5, 0.9, 0.95, 0.99, 0.999]))
def test_an_interval_has_the_confidence_and_contains_the_samples_median(
    samples: list[int], confidence: float
) -> None:
    interval = median_interval(samples, confidence)
    if interval is None:
        assert 2.0 ** (1 - len(samples)) > 1 - confidence - 1e-9 or len(samples) < 2
        return
    assert interval.confidence >= confidence - 1e-9
    assert interval.low <= interval.median <= interval.high
    assert {interval.low, interval.high} <= set(samples)


@given(SAMPLES, st.integers(-(10**6), 10**6))
def test_an_interval_moves_with_the_samples_and_does_not_depend_on_their_order(
    samples: list[int], shift: int
) -> None:
    interval = median_interval(samples, 0.95)
    moved = median_interval([sample + shift for sample in reversed(samples)], 0.95)
    if interval is None:
        assert moved is None
        return
    assert moved == MedianInterval(
        interval.median + shift, interval.low + shift, interval.high + shift, interval.confidence
    )


def test_more_confidence_takes_a_wider_interval() -> None:
    found = [median_interval(range(1000), confidence) for confidence in (0.5, 0.9, 0.99, 0.999999)]
    widths = [interval.high - interval.low for interval in found if interval is not None]
    assert len(widths) == 4
    assert widths == sorted(set(widths))


def test_a_difference_contains_every_difference_of_what_both_may_be() -> None:
    both = difference_of(MedianInterval(80, 70, 95, 0.995), MedianInterval(5, -4, 9, 0.996))
    assert (both.median, both.low, both.high) == (75, 61, 99)
    assert both.confidence == pytest.approx(0.991)


def test_quartiles_are_found_between_the_samples() -> None:
    found = quartiles([4, 1, 3, 2])
    assert found is not None
    assert (found.count, found.lower, found.median, found.upper) == (4, 1.75, 2.5, 3.25)
    assert quartiles([1]) is None
