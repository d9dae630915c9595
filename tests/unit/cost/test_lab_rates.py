# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts from tracefs, whatever is in its files, and rates from them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvtime.cost.lab_frequencies import (
    rate_of,
    share,
)
from pvtime.cost.lab_rates import PROBE, RateSetup, WindowCounts, hits_in_histogram, hits_in_profile
from pvtime.cost.lab_workloads import Workload, workload_guest
from pvtime.lab.qemu import LabError

PROFILE = f"  another                1               0\n  {PROBE}            662               0\n"
HISTOGRAM = """\
# event histogram
{ common_type:       1172 } hitcount:       7751

Totals:
    Hits: 7751
    Entries: 1
    Dropped: 0
"""


def test_hits_are_read_from_the_files_of_linux() -> None:
    assert hits_in_profile(PROFILE) == 662
    assert hits_in_histogram(HISTOGRAM) == 7751


@pytest.mark.parametrize("text", ["", "another 1 0", f"{PROBE}", f"{PROBE} 1 2", f"{PROBE} x 0"])
def test_a_profile_that_does_not_have_all_calls_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        hits_in_profile(text)


@given(st.text())
def test_no_text_is_too_odd(text: str) -> None:
    for read in (hits_in_profile, hits_in_histogram):
        with contextlib.suppress(ValueError):
            assert isinstance(read(text), int)


COUNTS = st.integers(0, 10**9)


@given(st.integers(1, 10**10), COUNTS, COUNTS, COUNTS)
def test_a_rate_times_the_windows_length_is_the_count(ns: int, exits: int, users: int, updates: int) -> None:
    windows = [
        WindowCounts(ns, exits, users, updates, None, None),
        WindowCounts(ns, 7, 0, None, 7, 7),
        WindowCounts(2 * ns, exits, 0, None, None, None),
    ]
    rate = rate_of(RateSetup("idle", 2), windows)
    assert rate.loads * rate.window_s == pytest.approx(updates)
    assert rate.entries * rate.window_s == pytest.approx(exits)
    assert rate.user_exits * rate.window_s == pytest.approx(users)
    assert rate.uncounted_entries * 2 == pytest.approx(rate.entries)
    assert rate.traced == (7, 7, 7)


def test_a_count_that_is_missing_is_never_zero() -> None:
    window = WindowCounts(1, 1, 1, None, None, None)
    with pytest.raises(LabError, match="did not count"):
        rate_of(RateSetup("idle", 1), [window] * 3)


@given(st.floats(0, 1e4), st.floats(0, 1e6))
def test_all_instructions_of_a_second_are_all_of_the_cpu(instructions: float, rate: float) -> None:
    assert share(500, 1e6) == 1
    assert share(instructions, rate) == pytest.approx(instructions * rate / 500e6)


def test_every_guest_has_a_program_of_its_own() -> None:
    programs = {workload_guest(workload, 2).kernel.data for workload in Workload}
    assert len(programs) == len(Workload)


def test_a_setup_survives_the_way_into_the_lab() -> None:
    setup = RateSetup("WFI", 4, 0.25)
    assert RateSetup.decode(setup.encode()) == setup
