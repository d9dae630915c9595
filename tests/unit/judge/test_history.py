# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's figures over time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pvtime.judge.history import MAX_READINGS, HostHistory, HostReading


def history(*figures: dict[int, int]) -> HostHistory:
    """Return readings that begin at 0, 10, 20, ... and take 4."""
    found = HostHistory()
    for number, stolen in enumerate(figures):
        found.add(HostReading(stolen, 10 * number, 10 * number + 4))
    return found


def test_bounds_are_of_readings_before_and_after() -> None:
    known = history({0: 0}, {0: 5}, {0: 9})
    assert known.bounds(0, 4, 10) == (0, 5)
    assert known.bounds(0, 13, 13) == (0, 9), "a reading that is not at its end is not before"
    assert known.bounds(0, 3, 10) is None
    assert known.bounds(0, 4, 21) is None


def test_a_vcpu_that_was_not_known_for_a_while_has_no_bounds() -> None:
    known = history({0: 7, 1: 1}, {1: 1}, {0: 0, 1: 1})
    assert known.bounds(0, 5, 20) is None
    assert known.bounds(1, 5, 20) == (1, 1)
    assert known.knows(0)
    assert not known.knows(2)


@given(st.lists(st.integers(0, 2), max_size=30), st.integers(0, 300), st.integers(0, 300))
def test_equal_readings_that_are_dropped_change_no_bounds(steps: list[int], earliest: int, late: int) -> None:
    figures = [sum(steps[:number]) for number in range(len(steps))]
    latest = earliest + late
    before = [stolen for number, stolen in enumerate(figures) if 10 * number + 4 <= earliest]
    after = [stolen for number, stolen in enumerate(figures) if 10 * number >= latest]
    expected = (before[-1], after[0]) if before and after else None
    assert history(*({0: stolen} for stolen in figures)).bounds(0, earliest, latest) == expected


def test_a_long_history_forgets_its_begin() -> None:
    known = history(*({0: number} for number in range(2 * MAX_READINGS + 1)))
    end = 20 * MAX_READINGS
    assert known.bounds(0, 9, 10) is None
    assert known.bounds(0, end - 1, end) == (2 * MAX_READINGS - 1, 2 * MAX_READINGS)
