# SPDX-License-Identifier: GPL-2.0-or-later
"""Hypervisor calls: the table of answers, as KVM gives them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framework.power import FakePower
from pvtime.abi.psci import Psci
from pvtime.abi.pvtime import PvTime
from pvtime.abi.smccc import NOT_SUPPORTED, SUCCESS, FunctionId, Smccc
from pvtime.machine.memory_map import MemoryMap
from pvtime.machine.psci import PsciCalls
from pvtime.machine.smccc import hypercall
from pvtime.steal.account import Account, GuestUse
from pvtime.steal.structure import CheckedStructure

BASE = 0x90A_0000
RFC_LPT = 0xC500_0022
UPPER = 0xDEAD_BEEF << 32
KNOWN = {*Psci, *Smccc, *PvTime}
u64 = st.integers(0, (1 << 64) - 1)

ANSWERS = [
    (Smccc.VERSION, 0, 0x1_0001),
    (Smccc.ARCH_FEATURES, PvTime.FEATURES, SUCCESS),
    (Smccc.ARCH_FEATURES, PvTime.ST, NOT_SUPPORTED),
    (Smccc.ARCH_FEATURES, Smccc.VERSION, NOT_SUPPORTED),
    (Smccc.ARCH_FEATURES, 0x8000_8000, NOT_SUPPORTED),  # ARCH_WORKAROUND_1
    (PvTime.FEATURES, PvTime.FEATURES, SUCCESS),
    (PvTime.FEATURES, PvTime.ST, SUCCESS),
    (PvTime.FEATURES, RFC_LPT, NOT_SUPPORTED),
    (PvTime.FEATURES, 0, NOT_SUPPORTED),
    (PvTime.ST, 0, BASE),
    (RFC_LPT, 0, NOT_SUPPORTED),
    (PvTime.FEATURES & ~(1 << 30), PvTime.ST, NOT_SUPPORTED),  # there is no 32-bit form
    (PvTime.ST & ~(1 << 30), 0, NOT_SUPPORTED),
    (0, 0, NOT_SUPPORTED),
    (0x8600_FF01, 0, NOT_SUPPORTED),  # who the hypervisor is
]


@pytest.fixture
def memories() -> Iterator[MemoryMap]:
    """Return the region for stolen time."""
    memories = MemoryMap([])
    memories.allocate(BASE, 0x1_0000, "stolen time")
    yield memories
    memories.close()


def ask(account: Account, function: int, argument: int = 0, run_delay: int = 0) -> int:
    """Have vCPU 0 of two call."""
    psci = PsciCalls([0, 1], FakePower(2))
    return hypercall(0, account, run_delay, psci, [function, argument, 0, 0])


@pytest.mark.parametrize(("function", "argument", "answer"), ANSWERS)
def test_calls_are_answered_as_kvm_does_whatever_is_in_the_upper_halves(
    function: int, argument: int, answer: int, memories: MemoryMap
) -> None:
    account = Account(CheckedStructure(memories, BASE, 0))
    assert ask(account, function, argument) == answer
    assert ask(account, UPPER | function, argument) == answer
    assert ask(account, function, UPPER | argument) == answer


def test_the_question_whether_one_may_ask_is_answered_yes_even_without_a_structure() -> None:
    assert ask(Account(None), Smccc.ARCH_FEATURES, PvTime.FEATURES) == SUCCESS


@pytest.mark.parametrize("argument", [PvTime.FEATURES, PvTime.ST])
def test_features_are_those_of_the_calling_vcpu(argument: int, memories: MemoryMap) -> None:
    assert ask(Account(CheckedStructure(memories, BASE, 0)), PvTime.FEATURES, argument) == SUCCESS
    assert ask(Account(None), PvTime.FEATURES, argument) == NOT_SUPPORTED
    assert ask(Account(None), PvTime.ST) == NOT_SUPPORTED


def test_asking_for_features_does_not_enable_and_asking_for_the_address_does(memories: MemoryMap) -> None:
    account = Account(CheckedStructure(memories, BASE, 0))
    ask(account, Smccc.ARCH_FEATURES, PvTime.FEATURES)
    ask(account, PvTime.FEATURES, PvTime.ST)
    uses = [account.use]
    ask(account, PvTime.ST)
    assert [*uses, account.use] == [GuestUse.OFFERED, GuestUse.ENABLED]


def test_asking_for_the_address_zeroes_the_structure_each_time(memories: MemoryMap) -> None:
    account = Account(CheckedStructure(memories, BASE, 0))
    for start in 1_000, 5_000:
        assert ask(account, PvTime.ST, run_delay=start) == BASE
        assert memories.memories[0].read(BASE, 64) == bytes(64)
        account.update_stolen_time(start + 70)
        assert account.structure() == account.truth(start + 70) == 70


@given(function=u64, argument=u64)
def test_whatever_is_unknown_is_not_supported(function: int, argument: int) -> None:
    if function & 0xFFFF_FFFF not in KNOWN:
        assert ask(Account(None), function, argument) == NOT_SUPPORTED


def test_function_identifiers_are_fast_calls_of_their_owners() -> None:
    for function in map(FunctionId, KNOWN):
        assert function.fast
    assert {FunctionId(function).owner for function in PvTime} == {5}
    assert {FunctionId(function).owner for function in Psci} == {4}
    assert all(FunctionId(function).smc64 for function in PvTime)
