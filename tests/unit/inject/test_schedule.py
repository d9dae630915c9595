# SPDX-License-Identifier: GPL-2.0-or-later
"""The grammar of --steal, and what a vCPU owes by it."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pvtime.errors import UsageError
from pvtime.inject.schedule import MIN_PERIOD_NS, Item, PendingSteal, Schedule

S, MS, US = 10**9, 10**6, 10**3


@pytest.mark.parametrize(
    ("text", "item"),
    [
        ("30%", Item(30 * MS, 100 * MS)),
        ("30%/1s", Item(300 * MS, S)),
        ("12.5%@5", Item(12_500 * US, 100 * MS, 5 * S)),
        ("1:30%@5-10", Item(30 * MS, 100 * MS, 5 * S, 10 * S, frozenset({1}))),
        ("0-2:200ms/1s@500ms-2.5s", Item(200 * MS, S, 500 * MS, 2500 * MS, frozenset({0, 1, 2}))),
        ("0,2-3:50us/1ms", Item(50 * US, MS, vcpus=frozenset({0, 2, 3}))),
        ("4s@10", Item(4 * S, None, 10 * S)),
        ("4@10-20", Item(4 * S, None, 10 * S, 20 * S)),
        ("100%/10s@0-10", Item(10 * S, 10 * S, 0, 10 * S)),
    ],
)
def test_an_item_says_who_how_much_and_when(text: str, item: Item) -> None:
    assert Item.parse(text) == item


@given(
    amount=st.integers(1, 10**17),
    room=st.integers(0, 10**17),
    once=st.booleans(),
    start=st.integers(0, 10**17),
    periods=st.none() | st.integers(1, 3),
    vcpus=st.none() | st.frozensets(st.integers(0, 7), min_size=1),
)
# The end was written as 1562500001ms, of which the parser takes nine digits.
@example(amount=1, room=0, once=False, start=1_562_500 * S, periods=1, vcpus=None)
def test_the_text_of_an_item_is_parsed_to_the_same_item(
    amount: int, room: int, once: bool, start: int, periods: int | None, vcpus: frozenset[int] | None
) -> None:
    period = max(MIN_PERIOD_NS, amount + room)
    end = None if periods is None else start + periods * period
    item = Item(amount, None if once else period, start, end, vcpus)
    assert Item.parse(str(item)) == item


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "write [VCPUS:]AMOUNT"),
        ("30@5-5", "shorter than a period"),
        ("a lot", "write"),
        ("30%,20%", "write"),
        ("30%@", "write"),
        ("-3s", "write"),
        ("1e9s", "write"),
        ("0%", "amount is zero"),
        ("0.000000001%/1ms", "amount is zero"),
        ("0s", "amount is zero"),
        ("101%", "longer than the period"),
        ("2s/1s", "longer than the period"),
        ("4s@10-13", "longer than the time from FROM to TO"),
        ("1us/999us", "at least 1 ms"),
        ("30%/0", "at least 1 ms"),
        ("1ms/0s", "at least 1 ms"),
        ("30%@5-4", "shorter than a period"),
        ("30%@5-5.05", "shorter than a period"),
        ("30%@5m", "5m is not a time"),
        ("1.2.3s", "1.2.3s is not a time"),
        ("1234567890s", "is not a time"),
        ("3-1:30%", "'3-1' is not a list of vCPUs"),
        ("1,:30%", "is not a list of vCPUs"),
        ("--:30%", "is not a list of vCPUs"),
    ],
)
def test_what_is_no_item_is_refused_and_named(text: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        Schedule.parse(["30%", text])
    assert said in str(refused.value)
    assert f"steal schedule item {text!r}:" in str(refused.value)


@given(st.text("0123456789.,-:@/%smu ", max_size=24))
def test_no_text_raises_anything_else(text: str) -> None:
    try:
        item = Item.parse(text)
    except UsageError:
        return
    assert item.amount_ns > 0
    assert item.period_ns is None or item.amount_ns <= item.period_ns


def test_a_vcpu_that_is_not_there_is_refused() -> None:
    schedule = Schedule.parse(["10%", "0-2:30%"])
    schedule.check_vcpus(3)
    with pytest.raises(UsageError, match=r"names vCPU 2, but the last one is vCPU 1"):
        schedule.check_vcpus(2)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["100%"], "takes 100% of every vCPU"),
        (["100%@5"], "takes 100% of every vCPU"),
        (["1s/1s"], "takes 100% of every vCPU"),
        (["60%", "40ms/100ms"], "takes 100% of every vCPU"),
        (["60%", "1-2:50%"], "takes 110% of vCPU 1 "),
        (["0:60%", "0-1:20%", "1:90%@30"], "takes 110% of vCPU 1 "),
    ],
)
def test_a_schedule_that_never_lets_a_vcpu_run_again_is_refused(texts: list[str], said: str) -> None:
    # The guest hung, silently, at its first instruction.
    with pytest.raises(UsageError) as refused:
        Schedule.parse(texts)
    assert said in str(refused.value)
    assert "@5-10" in str(refused.value)


@pytest.mark.parametrize(
    "texts", [["100%@0-10"], ["60%", "60%@5-10"], ["60%", "100s@1"], ["0:60%", "1:60%"], ["99.9%/1s"]]
)
def test_all_of_a_vcpu_may_be_taken_for_a_time(texts: list[str]) -> None:
    assert len(Schedule.parse(texts).items) == len(texts)


def test_a_vcpu_owes_by_the_items_that_name_it() -> None:
    schedule = Schedule.parse(["1s", "1:2s", "0,2:4s"])
    assert [schedule.pending(vcpu).claim(0) for vcpu in range(4)] == [5 * S, 3 * S, 5 * S, S]
    assert not Schedule()
    assert Schedule().pending(0).next_due() is None


items = st.builds(
    lambda period, share, start, periods, rest: Item(
        period * share // 100 or 1,
        period,
        start,
        None if periods is None else start + periods * period + rest,
    ),
    period=st.integers(MIN_PERIOD_NS, 10 * MIN_PERIOD_NS),
    share=st.integers(1, 100),
    start=st.integers(0, 10**8),
    periods=st.none() | st.integers(1, 10),
    rest=st.integers(0, MIN_PERIOD_NS - 1),
)


def reference(item: Item, until: int) -> list[tuple[int, int]]:
    """Return begin and end of the periods that have begun, one after the other."""
    assert item.period_ns is not None
    found = []
    begin = item.start_ns
    while begin <= until and (item.end_ns is None or begin + item.period_ns <= item.end_ns):
        found.append((begin, begin + item.period_ns))
        begin += item.period_ns
    return found


@given(item=items, moments=st.lists(st.integers(0, 3 * 10**8), max_size=8))
def test_who_always_wants_to_run_pays_each_period_once_whenever_it_is_asked(
    item: Item, moments: list[int]
) -> None:
    debts = PendingSteal([item])
    paid = 0
    for now in sorted(moments):
        paid += debts.claim(now)
        assert paid == len(reference(item, now)) * item.amount_ns
        due = debts.next_due()
        assert due is None or due > now


@given(item=items, moments=st.lists(st.tuples(st.booleans(), st.integers(0, 3 * 10**8)), max_size=8))
def test_what_was_not_paid_when_its_period_is_over_lapses_at_a_wake_up(
    item: Item, moments: list[tuple[bool, int]]
) -> None:
    debts = PendingSteal([item])
    settled: set[tuple[int, int]] = set()
    for wake, now in sorted(moments, key=lambda each: each[1]):
        begun = reference(item, now)
        if wake:
            debts.expire(now)
            settled |= {period for period in begun if period[1] <= now}
        else:
            assert debts.claim(now) == len(set(begun) - settled) * item.amount_ns
            settled |= set(begun)
        due = debts.next_due()
        open_ = [period for period in reference(item, now + 2 * 10**8) if period not in settled]
        assert due == (open_[0][0] if open_ else None)


def test_a_burst_is_owed_until_it_is_paid_or_its_window_is_over() -> None:
    for text, owed in [("4s@10", 4 * S), ("4s@10-20", 0)]:
        debts = Schedule.parse([text]).pending(0)
        assert debts.next_due() == 10 * S
        assert debts.claim(10 * S - 1) == 0
        debts.expire(20 * S)
        assert debts.claim(30 * S) == owed
        assert debts.next_due() is None
