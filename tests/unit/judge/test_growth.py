# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's count beside the host's figures: right within their bounds, and the likely mistakes by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvtime.judge.console import CheckResult, Count, CountMoment, Verdict
from pvtime.judge.growth import ENOUGH_NS, PREEMPTION_NS, Growth, Growths, HostReading, Restored
from pvtime.judge.growth import NAME as GROWTH

S = 10**9


def growths(
    guest: tuple[int, int], begin: tuple[int, int], end: tuple[int, int], host_passed: int = 2 * S
) -> Growths:
    """Return the growth of one vCPU: the guest's counts, and the host's bounds at both moments.

    :param host_passed: ns by the host's clock, while 2 s pass in the guest.
    """
    both = Growths()
    for number, (moment, bounds) in enumerate(zip(CountMoment, (begin, end), strict=True)):
        before, after = (HostReading({0: bound}, number * host_passed / S) for bound in bounds)
        both.add(Count(moment, 0, guest[number], number * 2 * S), before, after)
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


def test_of_several_readings_the_best_are_taken() -> None:
    # A thread's wait on its way to its sleep is in the host's figure, and not yet in the guest's count.
    both = growths((0, 2 * S), (8, 8), (2 * S, 2 * S))
    assert "off by 8 ns" in check(both).reason
    both.add(Count(CountMoment.BEGIN, 0, 8, 1), HostReading({0: 8}, 0), HostReading({0: 8}, 0))
    assert check(both).verdict is Verdict.PASS
    wrong = growths((0, 3 * S), (8, 8), (2 * S, 2 * S))
    wrong.add(Count(CountMoment.BEGIN, 0, 8, 1), HostReading({0: 8}, 0), HostReading({0: 8}, 0))
    assert check(wrong).verdict is Verdict.FAIL


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


def test_a_console_that_came_late_convicts_nobody() -> None:
    # What the host had at the first count's line had been stolen after that count.
    late = growths((0, 2 * S), (2 * S, 2 * S), (2 * S, 2 * S), host_passed=S)
    late.idle_ns = {0: 2 * S}
    assert check(late).verdict is Verdict.SKIP
    assert "back for 1000 ms" in check(late).reason
    assert late.idle_was_stolen() == ""
    stopped = growths((0, 2 * S), (0, 0), (2 * S, 2 * S), host_passed=9 * S)
    assert check(stopped).verdict is Verdict.PASS


def test_readings_that_came_late_are_left_out_where_others_did_not() -> None:
    both = growths((0, 2 * S), (2 * S, 2 * S), (2 * S, 2 * S), host_passed=S)
    # A second reading at the begin, 1 s later, that came in time.
    both.add(Count(CountMoment.BEGIN, 0, S, S), HostReading({0: S}, 0), HostReading({0: S}, 0))
    assert check(both).verdict is Verdict.PASS
    assert both.pairs() == [Growth(0, S, S, S)]


def test_an_error_that_no_late_console_explains_is_told() -> None:
    late = 2 * S - S // 20
    stopped = growths((0, 0), (0, 0), (2 * S, 2 * S), host_passed=late)
    assert "nobody updates the structure" in check(stopped).reason
    less = growths((0, 2 * S - S // 2), (0, 0), (2 * S, 2 * S), host_passed=late)
    assert check(less).verdict is Verdict.SKIP, "ten times 50 ms"


def test_what_cannot_be_compared_is_no_verdict() -> None:
    assert Growths().check() is None
    unknown = Growths()
    for moment in CountMoment:
        unknown.add(Count(moment, 0, 0, 0), HostReading({}), HostReading({}))
    assert check(unknown).verdict is Verdict.SKIP
    assert "debug-threads=on" in check(unknown).reason
    assert "too little" in check(growths((0, 10), (0, 0), (10, 10))).reason
