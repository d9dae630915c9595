# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's count beside the host's figures: right within their bounds, and the likely mistakes by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvtime.judge.console import CheckResult, Count, CountMoment, Verdict
from pvtime.judge.growth import ENOUGH_NS, LINE_NS, PREEMPTION_NS, Growth, Growths, Restored
from pvtime.judge.growth import NAME as GROWTH
from pvtime.judge.history import HostReading

S = 10**9


MS = 10**6
BEGIN, END = CountMoment
ZERO = 1000 * S
"""The host's clock when the guest's was 0."""


def read_host(both: Growths, clock_ns: int, stolen: int) -> None:
    """Read the host's figure of vCPU 0 at a time of the guest's clock."""
    both.add_reading(HostReading({0: stolen}, ZERO + clock_ns, ZERO + clock_ns))


def print_count(both: Growths, moment: CountMoment, stolen_ns: int, clock_ns: int, late_ns: int = 0) -> None:
    """Print a count of vCPU 0, whose line comes late."""
    both.add(Count(moment, 0, stolen_ns, clock_ns), ZERO + clock_ns + late_ns)


def growths(guest: tuple[int, int], begin: tuple[int, int], end: tuple[int, int]) -> Growths:
    """Return the growth of one vCPU: the guest's counts, and the host's bounds at both moments, 2 s apart."""
    both = Growths()
    for moment, clock_ns, bounds, count in zip(CountMoment, (S, 3 * S), (begin, end), guest, strict=True):
        if moment is END:
            both.begin_theft()
        read_host(both, clock_ns - LINE_NS, bounds[0])
        read_host(both, clock_ns, bounds[1])
        print_count(both, moment, count, clock_ns)
    return both


def check(each: Growths) -> CheckResult:
    """Return its verdict."""
    found = each.check()
    assert found is not None
    return found


times = st.integers(0, 10 * S)


@given(base=times, begin=times, stolen=times, lag=st.tuples(times, times, times, times))
def test_a_right_count_is_never_wrong(
    base: int, begin: int, stolen: int, lag: tuple[int, int, int, int]
) -> None:
    # The host reads before and after the guest does, however late.
    host = base + begin
    both = growths(
        (begin, begin + stolen),
        (host - lag[0], host + lag[1]),
        (host + stolen - lag[2], host + stolen + lag[3]),
    )
    assert check(both).verdict is not Verdict.FAIL


@given(stolen=st.integers(ENOUGH_NS, 10 * S), error=st.integers(-10 * S, 10 * S))
def test_an_exact_host_tells_every_error_beyond_a_preemption(stolen: int, error: int) -> None:
    found = check(growths((5, 5 + stolen + error), (7, 7), (7 + stolen, 7 + stolen)))
    expected = Verdict.PASS if not error else Verdict.SKIP if abs(error) <= PREEMPTION_NS else Verdict.FAIL
    assert found.verdict is expected


@pytest.mark.parametrize(
    ("guest_ns", "words"),
    [
        (0, "does not grow"),
        (2 * S // 1000, "counts us, not ns"),
        (1 * S, "lost time"),
        (3 * S, "another thread's time"),
    ],
)
def test_the_likely_mistake_is_named(guest_ns: int, words: str) -> None:
    assert words in Growth(0, guest_ns, 2 * S, 2 * S).mistake()
    found = check(growths((0, guest_ns), (0, 0), (2 * S, 2 * S)))
    assert found.verdict is Verdict.FAIL
    assert words in found.reason


@pytest.mark.parametrize(
    ("events", "guest_ns", "words"),
    [
        ({"idle_ns": 3 * S // 10}, 23 * S // 10, "idle (WFI) is in it"),
        ({"paused_ns": 7 * S // 10}, 27 * S // 10, "was paused is in it"),
        ({"saved_ns": S, "used_ns": 150 * 10**6}, 215 * S // 100, "before the restore, 150 ms, is in it"),
        ({"saved_ns": S}, 7 * S, "before the restore, is in it"),
        ({"saved_ns": S}, 98 * S // 100, "before the restore is lost"),
        ({"saved_ns": S}, -S // 10, "before the restore is lost"),
        ({"saved_ns": S}, 18 * S // 10, "it lost time"),
        ({"idle_ns": 3 * S // 10}, 4 * S, "another thread's time"),
    ],
)
def test_an_event_explains_an_error_of_its_size(events: dict[str, int], guest_ns: int, words: str) -> None:
    assert words in Growth(0, guest_ns, 2 * S, 2 * S, **events).mistake()


def test_wide_bounds_hide_a_part_of_what_explains_an_error() -> None:
    # Idle for 200 ms, of which bounds that are 100 ms wide leave 60 ms as an error.
    counted = Growth(0, 216 * S // 100, 2 * S, 21 * S // 10, idle_ns=2 * S // 10)
    assert "idle (WFI) is in it" in counted.mistake()
    assert "another thread's time" in Growth(0, 216 * S // 100, 2 * S, 21 * S // 10, idle_ns=S).mistake()


@pytest.mark.parametrize(("stolen", "verdict"), [(2 * S, Verdict.PASS), (3 * S, Verdict.FAIL)])
def test_of_several_readings_the_best_are_taken(stolen: int, verdict: Verdict) -> None:
    # A thread's wait on its way to its sleep is in the host's figure, and not yet in the guest's count.
    both = Growths()
    read_host(both, 0, 8)
    read_host(both, S, 8)
    print_count(both, BEGIN, 0, S // 2)
    print_count(both, BEGIN, 8, S)
    both.begin_theft()
    read_host(both, 2 * S, 8 + stolen)
    read_host(both, 3 * S, 8 + stolen)
    print_count(both, END, 8 + 2 * S, 3 * S)
    assert check(both).verdict is verdict


def test_what_a_thread_had_waited_is_not_taken_for_idle_time() -> None:
    both = growths((0, 215 * S // 100), (0, 0), (2 * S, 2 * S))
    both.idle_ns = {0: S // 5}
    assert "was idle for" in both.idle_was_stolen()
    both.restored = Restored({0: S}, used={0: S // 5})
    assert both.idle_was_stolen() == ""


def test_waits_that_a_save_need_not_count_widen_the_bounds() -> None:
    both = growths((0, 2 * S - 7), (0, 0), (2 * S, 2 * S))
    assert "off by -7 ns" in check(both).reason
    both.restored = Restored({0: S}, {0: 7})
    assert check(both).verdict is Verdict.PASS


def test_a_migration_that_was_not_completed_convicts_nobody() -> None:
    broken = growths((0, 4 * S), (0, 0), (S, S))
    broken.idle_ns = {0: 3 * S}
    broken.incomparable = "it was not completed"
    assert check(broken) == CheckResult(GROWTH, Verdict.SKIP, "it was not completed")
    assert broken.idle_was_stolen() == ""


def test_a_count_whose_line_comes_late_is_placed_by_the_guests_clock() -> None:
    # The first count's line comes 1 s late; by then the host has stolen that second.
    both = Growths()
    for tenth in range(31):
        read_host(both, tenth * S // 10, max(0, tenth - 10) * S // 10)
    print_count(both, BEGIN, 0, S, late_ns=S)
    print_count(both, END, S, 2 * S, late_ns=S // 2)
    both.add_clock(3 * S, ZERO + 3 * S)
    assert check(both).verdict is Verdict.PASS
    (placed,) = both.pairs()
    assert (placed.least_ns, placed.most_ns) == (8 * S // 10, S)


def test_a_late_line_does_not_hide_a_mistake() -> None:
    both = Growths()
    for tenth in range(31):
        read_host(both, tenth * S // 10, max(0, tenth - 10) * S // 10)
    print_count(both, BEGIN, 0, S, late_ns=S)
    print_count(both, END, S // 2, 2 * S)
    assert "it lost time" in check(both).reason


def test_a_guests_clock_that_stopped_with_the_machine_moves_no_later_count() -> None:
    both = Growths()
    read_host(both, 0, 0)
    read_host(both, S, 0)
    print_count(both, BEGIN, 0, S)
    for second in range(9):
        read_host(both, (2 + second) * S, min(second, 2) * S)
    both.add(Count(END, 0, 2 * S, 3 * S), ZERO + 10 * S)
    assert check(both).verdict is Verdict.PASS
    assert both.pairs() == [Growth(0, 2 * S, 2 * S, 2 * S)]


def test_figures_of_a_moment_that_are_not_kept_are_no_verdict() -> None:
    both = Growths()
    read_host(both, 0, 0)
    read_host(both, 2 * S, 0)
    print_count(both, BEGIN, 0, S)
    both.begin_theft()
    read_host(both, 6 * S, 2 * S)
    print_count(both, END, 2 * S, 5 * S, late_ns=S)
    assert check(both).verdict is Verdict.SKIP
    assert "held what the image printed back" in check(both).reason


def test_what_cannot_be_compared_is_no_verdict() -> None:
    assert Growths().check() is None
    unknown = Growths()
    for moment in CountMoment:
        unknown.add_reading(HostReading({}, 0, 0))
        print_count(unknown, moment, 0, 0)
    assert check(unknown).verdict is Verdict.SKIP
    assert "debug-threads=on" in check(unknown).reason
    assert "too little" in check(growths((0, 10), (0, 0), (10, 10))).reason


@pytest.mark.parametrize("counts", [1, 2], ids=["right", "double"])
def test_a_host_that_was_too_busy_to_read_its_figures_passes_nobody(counts: int) -> None:
    # A count of double the stolen time passed, where a reading had come as much later.
    found = check(growths((0, counts * S), (0, 0), (S, 2 * S)))
    assert found.verdict is Verdict.SKIP
    assert "too busy" in found.reason
    assert check(growths((0, S), (0, 0), (S, S + S // 2))).verdict is Verdict.PASS
