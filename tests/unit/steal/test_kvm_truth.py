# SPDX-License-Identifier: GPL-2.0-or-later
"""Truth on KVM beside a structure that a kernel, a guest or an injector writes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framework.structures import Structures
from pvtime.abi.registration import Registration
from pvtime.machine.layout import RAM_BASE, Region
from pvtime.machine.memory import GuestMemory
from pvtime.machine.memory_map import Access, MemoryMap
from pvtime.steal.guest import GuestPlacement
from pvtime.steal.kvm_truth import KvmTruth, NoticedCalls, StolenState


@pytest.fixture
def structures() -> Iterator[Structures]:
    """Return the memory of a structure."""
    structures = Structures()
    yield structures
    structures.map.close()


def test_truth_before_the_first_call_is_all_of_run_delay(structures: Structures) -> None:
    truth = structures.truth()
    structures.count(700)
    assert (truth.measure(700), truth.enabled) == ((700, 700), False)


def test_truth_starts_anew_at_each_call(structures: Structures) -> None:
    truth = structures.truth()
    truth.measure(500)
    for called_at, now in ((600, 1_000), (2_000, 2_000), (5_000, 5_001)):
        structures.call()
        structures.count(now - called_at)
        assert truth.measure(now) == (now - called_at, now - called_at)
        assert truth.enabled
        structures.count(now - called_at + 90)
        assert truth.measure(now + 90) == (now - called_at + 90, now - called_at + 90)


def test_truth_does_not_follow_a_count_that_is_wrong(structures: Structures) -> None:
    truth = structures.truth()
    structures.call()
    truth.measure(1_000)
    structures.count(5)
    assert truth.measure(1_300) == (300, 5), "a lost count shows, and is not taken for a call"


def test_a_count_that_is_lost_beside_a_hypercall_of_another_kind_is_no_call(structures: Structures) -> None:
    truth = structures.truth()
    structures.call()
    structures.count(9_000)
    truth.measure(9_000)
    structures.hypercalls += 1
    structures.count(9_050)
    assert truth.measure(9_300) == (9_300, 9_050), "more than has grown since"
    structures.count(200)
    assert truth.measure(9_600) == (9_600, 200), "no hypercall since"


def test_a_call_while_the_memory_is_away_starts_no_count(structures: Structures) -> None:
    # In the lab the old count was less than what was stolen since, and the call was taken for one that wrote.
    truth = structures.truth()
    structures.call()
    structures.count(30)
    truth.measure(30)
    structures.map.protect(structures.memory.region, Access.NONE)
    structures.hypercalls += 1
    assert truth.measure(90) == (90, None)
    structures.map.protect(structures.memory.region, Access.WRITE)
    structures.count(35)
    assert truth.measure(100) == (100, 35), "what was stolen before the call is missing"
    assert truth.starts == 1


def test_without_kvms_statistics_a_later_call_is_known_by_the_count(structures: Structures) -> None:
    structure = structures.placement.own_structure(0)
    truth = KvmTruth(structure, NoticedCalls(structure))
    structures.call()
    structures.count(9_000)
    truth.measure(9_000)
    structures.call()
    structures.count(40)
    assert truth.measure(9_100) == (40, 40)
    assert truth.starts == 2
    structures.count(120)
    truth.inject(1_000)
    structures.call()
    assert truth.measure(9_200) == (0, 0), "what was injected is gone with the count"


def test_no_guest_that_has_an_address_finds_more_than_16_bytes(structures: Structures) -> None:
    def beyond() -> bytes:
        return structures.memory.read(structures.memory.region.base + 16, 48)

    truth = structures.truth()
    assert beyond() != bytes(48), "the first call is known by this"
    for now in (100, 250, 700):
        structures.call()
        structures.count(5)
        truth.measure(now)
        truth.inject(10)
        assert beyond() == bytes(48)
    state = truth.state(800)
    structures.truth().restore(state)
    assert beyond() == bytes(48), "nor does one that is restored"


@given(st.integers(0, (1 << 64) - 1), st.integers(0, 1 << 40), st.integers(0, 1 << 40))
def test_a_guest_that_writes_its_structure_does_not_leave_the_bounds(
    written: int, earlier: int, later: int
) -> None:
    structures = Structures()
    truth = structures.truth()
    truth.measure(earlier)
    structures.call()
    structures.count(written)
    measured, _ = truth.measure(earlier + later)
    structures.map.close()
    assert 0 <= measured <= later


def test_a_restored_truth_goes_on_with_the_new_threads_run_delay(structures: Structures) -> None:
    truth = structures.truth()
    structures.call()
    structures.count(300)
    truth.measure(1_000)
    state = truth.state(1_000)
    assert state == StolenState(truth_ns=300, injected_ns=0, enabled=True, starts=1)
    restored = structures.truth()
    restored.restore(state)
    assert (restored.figures, restored.enabled) == ((300, 300), True)
    structures.count(300 + 25)
    assert restored.measure(25) == (325, 325)
    assert restored.state(25).truth_ns == 325
    structures.call()
    structures.count(5)
    assert restored.measure(40) == (5, 5), "the next call counts from zero, as always"
    assert restored.starts == 2


def test_who_was_switched_off_is_saved_with_the_kernels_last_update(structures: Structures) -> None:
    truth = structures.truth()
    structures.count(500)
    truth.measure(500)
    structures.count(620)  # it ran on, and was switched off
    assert truth.state(900).truth_ns == 620
    structures.count(10)  # no call has cleared it: the guest wrote this
    assert truth.state(900).truth_ns == 500
    structures.count(1 << 60)
    assert truth.state(900).truth_ns == 900
    structures.call()
    structures.count(70)
    assert truth.state(900) == StolenState(truth_ns=70, injected_ns=0, enabled=True, starts=1)
    structures.count(1 << 60)
    assert truth.state(900).truth_ns == 400


def test_truth_and_structure_agree_on_what_the_kernel_and_the_injector_add(structures: Structures) -> None:
    truth = structures.truth()
    structures.add(700)
    assert truth.measure(700) == (700, 700)
    truth.inject(1000)
    assert truth.figures == (1700, 1700)
    structures.add(50)
    assert truth.measure(750) == (1750, 1750)
    assert truth.injected_ns == 1000


def test_a_guest_that_asks_for_stolen_time_starts_anew_with_nothing_injected(structures: Structures) -> None:
    truth = structures.truth()
    truth.measure(700)
    truth.inject(1000)
    structures.call()  # PV_TIME_ST, at run_delay 710
    structures.add(20)
    assert truth.measure(730) == (20, 20)
    assert (truth.enabled, truth.injected_ns) == (True, 0)


def test_a_guest_that_fills_its_structure_deceives_only_itself(structures: Structures) -> None:
    truth = structures.truth()
    truth.measure(0)
    structures.count(2**64 - 1)
    truth.inject(1000)
    assert truth.structure() == 999
    assert truth.figures[0] == 1000


def test_without_a_structure_truth_is_all_of_run_delay_and_the_count_is_absent() -> None:
    truth = KvmTruth(None)
    assert truth.measure(500) == (500, None)
    truth.inject(20)
    assert truth.figures == (520, None)
    restored = KvmTruth(None)
    restored.restore(truth.state(500))
    assert restored.measure(30) == (550, None)


def test_figures_stay_of_one_moment_where_the_kernel_updates_before_an_injection(
    structures: Structures,
) -> None:
    # Seen in the lab: truth of the last measurement beside a structure of the moment of the injection.
    truth = structures.truth()
    structures.add(100)
    truth.measure(100)
    structures.add(40)  # the guest was entered again, and has not been measured since
    truth.inject(7)
    assert truth.figures == (107, 107)
    assert truth.measure(140) == (147, 147)


def test_a_count_is_absent_from_the_moment_on_at_which_nobody_can_read_it(structures: Structures) -> None:
    # A vCPU that is switched off is not measured: its last count was shown beside a fault.
    truth = structures.truth()
    structures.add(100)
    truth.measure(100)
    structures.map.protect(structures.memory.region, Access.NONE)
    hidden = truth.figures
    structures.map.protect(structures.memory.region, Access.READ)
    assert [hidden, truth.figures] == [(100, None), (100, 100)]


def test_a_count_that_nobody_can_read_is_absent_and_an_injection_is_not_lost(structures: Structures) -> None:
    truth = structures.truth()
    structures.add(100)
    assert truth.measure(100) == (100, 100)
    structures.map.protect(structures.memory.region, Access.NONE)
    truth.inject(20)
    assert truth.figures == (120, None)
    assert str(truth.fault) == "the structure at 0x90a0000 cannot be written: the memory is not mapped"
    structures.map.protect(structures.memory.region, Access.WRITE)
    assert truth.measure(100) == (120, 120)
    assert not truth.fault


class Registrations:
    """What a kernel module tells of a guest's registrations, and does to its structure."""

    def __init__(self, map_: MemoryMap, memory: GuestMemory) -> None:
        self.map, self.memory = map_, memory
        self.registered = Registration(0)
        self.starts = self.taken = self.run_delay = 0
        self.truth = KvmTruth(GuestPlacement(map_, 1).own_structure(self.registration), self)

    def registration(self) -> Registration:
        return self.registered

    def pending(self, growth: int, *, exact: bool) -> int:
        return self.starts - self.taken

    def measured(self) -> None:
        pass

    def restore(self, *, enabled: bool) -> None:
        pass

    def take(self, earliest: int, latest: int) -> int:
        assert earliest <= self.run_delay <= latest
        self.taken = self.starts
        return self.run_delay

    def register(self, address: int, run_delay: int) -> None:
        """Have the guest enable a structure."""
        self.memory.write(address, bytes(64))
        self.registered, self.run_delay, self.starts = Registration(address | 1), run_delay, self.starts + 1

    def count(self, ns: int) -> None:
        """Write the count."""
        self.memory.store_u64(int(self.registered.with_(enable=0)), ns)


@pytest.fixture
def registrations() -> Iterator[Registrations]:
    """Return a guest that has registered nothing."""
    memories = MemoryMap([])
    memory = memories.allocate(RAM_BASE, 1 << 16, "RAM")
    yield Registrations(memories, memory)
    memories.close()


def test_truth_beside_a_registered_structure_follows_the_registrations(registrations: Registrations) -> None:
    truth, here, there = registrations.truth, RAM_BASE + 64, RAM_BASE + 4096
    assert truth.measure(300) == (300, None)
    assert (truth.ipa, truth.fault, truth.enabled) == (None, None, False)
    registrations.register(here, 400)
    registrations.count(100)
    assert truth.measure(500) == (100, 100)
    assert (truth.ipa, truth.enabled, truth.starts) == (here, True, 1)
    registrations.register(there, 600)
    registrations.register(there, 700)
    assert truth.measure(700) == (0, 0)
    assert (truth.ipa, truth.starts) == (there, 3)
    assert registrations.memory.read(there, 64) == bytes(64), "no mark is in the guest's memory"
    registrations.count(4)
    assert truth.measure(705) == (5, 4), "a lost count shows"
    assert truth.state(705).registration == there | 1


def test_a_guest_that_disables_its_structure_has_none(registrations: Registrations) -> None:
    truth = registrations.truth
    registrations.register(RAM_BASE, 0)
    truth.measure(10)
    registrations.registered = Registration(0)
    assert truth.measure(20) == (20, None)
    assert (truth.enabled, truth.fault) == (False, None)
    truth.inject(5)
    assert truth.figures == (25, None)
    assert registrations.memory.read(RAM_BASE, 64) == bytes(64)


def test_a_registered_structure_in_memory_that_is_gone_is_a_fault(registrations: Registrations) -> None:
    truth, page = registrations.truth, Region("page", RAM_BASE, 4096)
    registrations.register(RAM_BASE, 0)
    registrations.map.protect(page, Access.NONE)
    assert truth.measure(10) == (10, None)
    assert truth.fault is not None
    assert truth.fault.startswith(f"the structure at {RAM_BASE:#x} cannot be written: ")
    assert truth.fault.endswith("the memory is not mapped")
    registrations.map.protect(page, Access.WRITE)
    registrations.count(20)
    assert truth.measure(20) == (20, 20)
    assert truth.fault is None
