# SPDX-License-Identifier: GPL-2.0-or-later
"""Mistakes that are made on purpose: each is as large as it says, to the nanosecond."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pvtime.engine.base import BREAK
from pvtime.engine.unicorn.mistakes import account_maker
from pvtime.machine.layout import STOLEN_TIME
from pvtime.machine.memory_map import MemoryMap
from pvtime.steal.account import Account
from pvtime.steal.placement import UserspacePlacement

START = 30_000_000
"""run_delay, in ns, of a vCPU whose guest has just asked for its stolen time."""


@pytest.fixture
def placement() -> Iterator[UserspacePlacement]:
    """Return the memory of the structures."""
    memory_map = MemoryMap([])
    yield UserspacePlacement(memory_map, STOLEN_TIME.base)
    memory_map.close()


def accounts(placement: UserspacePlacement, mistake: str) -> tuple[Account, Account]:
    """Return the accounts of two vCPUs, whose guest has asked for its stolen time."""
    make = account_maker({BREAK: mistake})
    first, second = (make(placement.structure(index)) for index in range(2))
    for account in (first, second):
        account.vcpu_load(START)
    for account in (first, second):
        account.init_stolen_time(START)
    return first, second


@pytest.mark.parametrize(
    ("mistake", "counts"),
    [("microseconds", [2, 3, 4]), ("twice", [4_000, 7_800, 8_200]), ("no-update", [0, 0, 0])],
)
def test_a_count_is_wrong_by_what_the_mistake_says(
    placement: UserspacePlacement, mistake: str, counts: list[int]
) -> None:
    # What had been stolen before PV_TIME_ST was in it, and a count of us began below 0.
    account, _ = accounts(placement, mistake)
    found = []
    for waited in (2_000, 3_900, 4_100):
        account.vcpu_load(START + waited)
        found.append(account.structure())
    assert found == counts


def test_a_count_of_another_vcpu_has_what_that_one_waited(placement: UserspacePlacement) -> None:
    first, second = accounts(placement, "another-vcpu")
    first.vcpu_load(START + 500)
    second.vcpu_load(START + 7_000)
    first.vcpu_load(START + 600)
    assert (first.structure(), second.structure()) == (7_000, 500)
