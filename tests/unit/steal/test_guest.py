# SPDX-License-Identifier: GPL-2.0-or-later
"""The placement guest: what an address may be, who has it, and what happens when its memory is gone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvtime.abi.pvtime import PvTime
from pvtime.abi.registration import KvmStealTime, RegisterCall, RegisterResult, Registration
from pvtime.abi.smccc import NOT_SUPPORTED, SUCCESS
from pvtime.errors import GuestMemoryError
from pvtime.machine.layout import Region
from pvtime.machine.memory import GuestMemory
from pvtime.machine.memory_map import Access, MemoryMap
from pvtime.steal.account import Account, GuestUse
from pvtime.steal.guest import GuestPlacement, RegisteredStructure
from pvtime.steal.service_calls import pv_time_features, pv_time_st, register_call

BASE = 0x4000_0000
SIZE = 0x1_0000
HERE = BASE + 0x1000
PAGE = Region("page", HERE, 0x1000)
ON = 1
u64 = st.integers(0, (1 << 64) - 1)


@dataclass
class Guest:
    """Two vCPUs with 64 KiB of RAM."""

    map: MemoryMap
    memory: GuestMemory
    accounts: list[Account]

    def set(self, index: int, value: int, run_delay: int = 0) -> int:
        """Have a vCPU make the call SET."""
        return register_call(self.accounts[index], run_delay, RegisterCall.SET, value)

    def structure(self, ipa: int = HERE) -> KvmStealTime:
        """Return what is in memory."""
        return KvmStealTime.from_buffer_copy(self.memory.read(ipa, 64))


@pytest.fixture
def guest() -> Iterator[Guest]:
    """Return a guest that has given nothing yet."""
    memories = MemoryMap([])
    memory = memories.allocate(BASE, SIZE, "RAM")
    placement = GuestPlacement(memories, 2)
    yield Guest(memories, memory, [Account(placement.structure(index)) for index in range(2)])
    memories.close()


def test_the_structure_is_cleared_when_given_and_the_count_starts_from_zero(guest: Guest) -> None:
    guest.memory.write(HERE, b"\xff" * 64)
    assert guest.set(0, HERE | ON, run_delay=500) == RegisterResult.SUCCESS
    assert guest.memory.read(HERE, 64) == bytes(64)
    guest.accounts[0].update_stolen_time(700)
    assert guest.structure().steal == guest.accounts[0].truth(700) == 200
    assert guest.accounts[0].use is GuestUse.ENABLED


def test_the_version_counts_by_two_and_is_even_between_updates(guest: Guest) -> None:
    guest.set(0, HERE | ON)
    for update in range(1, 4):
        guest.accounts[0].update_stolen_time(update)
        assert guest.structure().version == 2 * update


def test_the_version_that_a_guest_has_made_odd_or_the_largest_becomes_even(guest: Guest) -> None:
    guest.set(0, HERE | ON)
    guest.memory.write(HERE + KvmStealTime.version.offset, b"\xff" * 4)
    guest.accounts[0].update_stolen_time(1)
    assert guest.structure().version == 0


def test_preempted_is_set_when_kept_from_running_and_cleared_by_the_next_load(guest: Guest) -> None:
    guest.set(0, HERE | ON)
    guest.accounts[0].preempt()
    assert guest.structure().preempted == 1
    guest.accounts[0].update_stolen_time(8)
    assert guest.structure().preempted == 1, "that somebody looks does not make it run"
    guest.accounts[0].vcpu_load(9)
    assert guest.structure().preempted == 0


@given(value=u64)
def test_whatever_is_given_is_in_ram_aligned_and_nobody_elses_or_refused(value: int) -> None:
    memories = MemoryMap([])
    memories.allocate(BASE, SIZE, "RAM")
    try:
        placement = GuestPlacement(memories, 2)
        accounts = [Account(placement.structure(index)) for index in range(2)]
        accounts[1].register(0, Registration(HERE | ON))
        result = accounts[0].register(0, Registration(value))
        ipa = value & ~1
        good = not ipa % 64 and BASE <= ipa <= BASE + SIZE - 64 and ipa != HERE
        if not value & ON:
            assert result is RegisterResult.SUCCESS
            assert placement.structure(0).ipa is None
        else:
            assert (result is RegisterResult.SUCCESS) == good
            assert placement.structure(0).ipa == (ipa if good else None)
    finally:
        memories.close()


@pytest.mark.parametrize(
    "value",
    [
        HERE + 8 | ON,
        HERE + 32 | ON,
        HERE | 2 | ON,
        BASE + SIZE | ON,
        BASE - 64 | ON,
        0x0800_0000 | ON,
        (1 << 64) - 64 | ON,
        ON,
    ],
)
def test_an_address_that_is_misaligned_or_not_in_ram_is_refused(guest: Guest, value: int) -> None:
    assert guest.set(0, value) == RegisterResult.INVALID_PARAMETER
    assert guest.accounts[0].use is GuestUse.ABSENT


def test_one_address_given_by_two_vcpus_is_refused_to_the_second(guest: Guest) -> None:
    guest.set(0, HERE | ON)
    assert guest.set(1, HERE | ON) == RegisterResult.INVALID_PARAMETER
    assert guest.set(1, HERE + 64 | ON) == RegisterResult.SUCCESS


def test_a_second_consumer_is_refused_learns_where_the_first_is_and_may_take_over(guest: Guest) -> None:
    firmware, kernel = HERE, HERE + 0x100
    assert guest.set(0, firmware | ON) == RegisterResult.SUCCESS
    guest.accounts[0].update_stolen_time(50)
    assert guest.set(0, kernel | ON, run_delay=60) == RegisterResult.IN_USE
    assert register_call(guest.accounts[0], 60, RegisterCall.GET, 0) == firmware | ON
    assert guest.set(0, 0, run_delay=60) == RegisterResult.SUCCESS
    assert guest.structure(firmware).steal == 60, "the first one's count is brought up to date at its end"
    assert guest.set(0, kernel | ON, run_delay=60) == RegisterResult.SUCCESS
    guest.accounts[0].update_stolen_time(75)
    assert (guest.structure(firmware).steal, guest.structure(kernel).steal) == (60, 15)


def test_after_a_disable_the_memory_is_the_guests_own_and_truth_goes_on(guest: Guest) -> None:
    guest.set(0, HERE | ON)
    guest.accounts[0].update_stolen_time(10)
    guest.set(0, 0, run_delay=30)
    before = guest.memory.read(HERE, 64)
    guest.accounts[0].update_stolen_time(90)
    guest.accounts[0].preempt()
    assert guest.memory.read(HERE, 64) == before
    account = guest.accounts[0]
    assert (account.truth(90), account.structure(), account.use) == (90, None, GuestUse.ABSENT)


@pytest.mark.parametrize("access", [Access.NONE, Access.READ])
def test_where_the_memory_is_gone_the_count_is_absent_truth_goes_on_and_the_fault_is_said(
    guest: Guest, access: Access
) -> None:
    account = guest.accounts[0]
    guest.set(0, HERE | ON)
    account.update_stolen_time(10)
    guest.map.protect(PAGE, access)
    account.update_stolen_time(25)
    assert (account.truth(99), account.structure(), account.use) == (99, None, GuestUse.ABSENT)
    assert account.fault is not None
    assert "0x40001000" in account.fault
    guest.map.protect(PAGE, Access.WRITE)
    account.update_stolen_time(50)
    assert account.structure() is None, "an address that was given up stays given up"
    assert guest.set(0, HERE | ON, run_delay=50) == RegisterResult.SUCCESS
    assert account.fault is None


def test_cpu_off_and_reset_disable(guest: Guest) -> None:
    for end in (guest.accounts[0].power_off, guest.accounts[0].reset):
        guest.set(0, HERE | ON)
        end(5)
        assert register_call(guest.accounts[0], 5, RegisterCall.GET, 0) == 0
        assert guest.accounts[0].use is GuestUse.ABSENT


def test_the_guest_is_offered_these_calls_and_not_pv_time_st(guest: Guest) -> None:
    account = guest.accounts[0]
    for call in RegisterCall:
        assert register_call(account, 0, RegisterCall.FEATURES, call) == SUCCESS
    assert register_call(account, 0, RegisterCall.FEATURES, PvTime.ST) == NOT_SUPPORTED
    assert pv_time_features(account, PvTime.ST) == NOT_SUPPORTED
    assert pv_time_st(account, 0) == NOT_SUPPORTED


def test_pv_time_st_does_not_touch_what_the_guest_has_given(guest: Guest) -> None:
    account = guest.accounts[0]
    guest.set(0, HERE | ON)
    account.update_stolen_time(10)
    assert pv_time_st(account, 15) == NOT_SUPPORTED
    account.update_stolen_time(30)
    assert guest.structure().steal == account.truth(30) == 30


def test_without_a_structure_a_registration_is_not_supported() -> None:
    assert Account(None).register(0, Registration(HERE | ON)) is RegisterResult.NOT_SUPPORTED


@pytest.mark.parametrize("give", [True, False])
def test_a_saved_account_goes_on_where_it_was(guest: Guest, give: bool) -> None:
    account = guest.accounts[0]
    if give:
        guest.set(0, HERE | ON, run_delay=100)
    state = account.state(140)
    account.register(140, Registration(0))
    restored = Account(another_structure(guest))
    restored.restore(state, run_delay=7)
    restored.update_stolen_time(12)
    assert restored.truth(12) == (45 if give else 145)
    assert restored.structure() == (45 if give else None)
    assert restored.state(12).registration == (HERE | ON if give else 0)


def test_a_saved_address_that_is_no_good_is_refused(guest: Guest) -> None:
    guest.set(0, HERE | ON)
    state = guest.accounts[0].state(0)
    guest.map.protect(PAGE, Access.NONE)
    with pytest.raises(GuestMemoryError, match="0x40001000"):
        Account(another_structure(guest)).restore(state, 0)


def another_structure(guest: Guest) -> RegisteredStructure:
    """Return the structure of a vCPU of another machine with that memory."""
    return GuestPlacement(guest.map, 1).structure(0)
