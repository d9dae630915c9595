# SPDX-License-Identifier: GPL-2.0-or-later
"""The histogram of vCPUs' waits, with events of the test's own."""

from __future__ import annotations

from pvtime.watch.wait_histogram import BOUNDS_S, WaitHistogram, WaitPairs

VCPU, HOG = 51, 70
NAME = ("qemu", "web", "0")
MS = 1_000_000
RUNNABLE, ASLEEP = 0x100, 1


def counts(pairs: WaitPairs) -> dict[str, int]:
    """Return the number of waits in each bucket that has some, by its bound."""
    counted = pairs.histograms[NAME].counts
    bounds = (*(f"{bound:g}" for bound in BOUNDS_S), "+Inf")
    return {bound: count for bound, count in zip(bounds, counted, strict=True) if count}


def test_a_wait_is_in_the_bucket_of_the_next_bound() -> None:
    histogram = WaitHistogram()
    for ns in (0, 10_000, 10_001, 2 * MS, 3 * MS, 11_000 * MS):
        histogram.add(ns)
    buckets = dict(histogram.buckets())
    assert (buckets["1e-05"], buckets["3e-05"], buckets["0.001"], buckets["0.003"]) == (2, 3, 3, 5)
    assert (buckets["10"], buckets["+Inf"]) == (5, 6)
    assert histogram.sum_ns == 11_005 * MS + 20_001


def test_waits_begin_by_preemption_or_a_wakeup_and_end_on_a_cpu() -> None:
    pairs = WaitPairs()
    pairs.follow({VCPU: NAME})
    pairs.switch(0, HOG, RUNNABLE, VCPU)  # its beginning was not traced
    pairs.wakeup(5 * MS, VCPU)  # of a thread that runs: it means nothing
    pairs.switch(10 * MS, VCPU, RUNNABLE, HOG)
    pairs.switch(12 * MS, HOG, RUNNABLE, VCPU)
    pairs.switch(20 * MS, VCPU, ASLEEP, 0)
    pairs.wakeup(90 * MS, VCPU)
    pairs.wakeup(91 * MS, VCPU)
    pairs.switch(110 * MS, 0, RUNNABLE, VCPU)
    pairs.wakeup(111 * MS, HOG)
    assert counts(pairs) == {"0.003": 1, "0.03": 1}
    assert pairs.histograms[NAME].sum_ns == 22 * MS


def test_a_lost_arrival_makes_no_wait_of_what_it_ran() -> None:
    pairs = WaitPairs()
    pairs.follow({VCPU: NAME})
    pairs.switch(0, VCPU, RUNNABLE, HOG)
    pairs.switch(500 * MS, VCPU, ASLEEP, HOG)
    pairs.switch(900 * MS, HOG, RUNNABLE, VCPU)
    assert counts(pairs) == {}


def test_a_vm_that_restarts_under_its_name_continues_its_histogram() -> None:
    pairs = WaitPairs()
    pairs.follow({VCPU: NAME})
    pairs.switch(0, VCPU, RUNNABLE, HOG)
    pairs.switch(2 * MS, HOG, RUNNABLE, VCPU)
    pairs.follow({})
    pairs.switch(3 * MS, VCPU, RUNNABLE, HOG)
    pairs.follow({VCPU + 1: NAME})
    pairs.switch(4 * MS, VCPU + 1, RUNNABLE, HOG)
    pairs.switch(6 * MS, HOG, RUNNABLE, VCPU + 1)
    assert counts(pairs) == {"0.003": 2}
