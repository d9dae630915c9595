# SPDX-License-Identifier: GPL-2.0-or-later
"""Live Physical Time (never merged): the fixed-point scale against exact fractions, moves, and the calls."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framework.power import FakePower
from pvtime.abi.layout import U64_MAX
from pvtime.abi.pvtime import LPT_OFFSET, STRUCTURE_STRIDE, LptStructure, PvTime
from pvtime.abi.registration import LptCall, RegisterCall, RegisterResult
from pvtime.abi.smccc import NOT_SUPPORTED, SUCCESS
from pvtime.errors import GuestMemoryError
from pvtime.machine.layout import RAM_BASE, STOLEN_TIME
from pvtime.machine.memory_map import Access, MemoryMap
from pvtime.machine.psci import PsciCalls
from pvtime.machine.smccc import hypercall
from pvtime.machine.timer import MAX_HZ, MIN_HZ
from pvtime.steal.account import Account
from pvtime.steal.live_physical_time import LivePhysicalTime, rebase, scale
from pvtime.steal.placement import Placement, PlacementName
from pvtime.steal.placements import make_placement

hz = st.integers(MIN_HZ, MAX_HZ)
CENTURY_S = 100 * 365 * 86_400 + 25 * 86_400
centuries = st.integers(0, 10**9).map(lambda part: Fraction(part, 10**9) * CENTURY_S)
PV_HZ = 62_500_000
HERE = RAM_BASE + 0x1_0000


@given(to_hz=hz, from_hz=hz)
def test_the_scale_is_the_patches_and_has_all_64_bits(to_hz: int, from_hz: int) -> None:
    factor = scale(to_hz, from_hz)
    intbits = (to_hz // from_hz).bit_length() if to_hz >= from_hz else 1  # ilog2(to / from) + 1
    assert factor.fracbits == 64 - intbits
    assert factor.mult == (1 << factor.fracbits) * to_hz // from_hz
    assert 0 < factor.mult <= U64_MAX
    exact = Fraction(to_hz, from_hz)
    assert 0 <= exact - Fraction(factor.mult, 1 << factor.fracbits) < Fraction(1, 1 << factor.fracbits)


@given(pv_hz=hz, native_hz=hz, seconds=centuries)
def test_a_clock_of_a_century_is_wrong_by_less_than_two_ticks_and_never_fast(
    pv_hz: int, native_hz: int, seconds: Fraction
) -> None:
    ticks = int(seconds * native_hz)
    factor = scale(pv_hz, native_hz)
    late = Fraction(ticks * pv_hz, native_hz) - factor.apply(ticks)
    # Of the ratio of 2 GHz to 1 MHz, 53 bits are behind the point.
    assert 0 <= late < 1 + Fraction(ticks, 1 << factor.fracbits)
    assert late < 2


@given(pv_hz=hz, native_hz=hz, seconds=centuries, later=st.integers(0, 1 << 40))
def test_lpt_never_runs_backwards_on_a_host(
    pv_hz: int, native_hz: int, seconds: Fraction, later: int
) -> None:
    ticks = int(seconds * native_hz)
    factor = scale(pv_hz, native_hz)
    assert factor.apply(ticks) <= factor.apply(ticks + later)


@given(pv_hz=hz, old_hz=hz, new_hz=hz, seconds=centuries)
def test_a_move_takes_lpt_forward_by_less_than_a_tick_of_the_new_counter(
    pv_hz: int, old_hz: int, new_hz: int, seconds: Fraction
) -> None:
    ticks = int(seconds * old_hz)
    before = scale(pv_hz, old_hz).apply(ticks)
    rebased = rebase(ticks, pv_hz, old_hz, new_hz)
    after = scale(pv_hz, new_hz).apply(rebased)
    tick = -(-pv_hz // new_hz)
    assert 0 <= after - before < max(1, tick)


def test_the_patches_rounding_takes_lpt_back() -> None:
    # 12.4 s at 62.5 MHz, to a host with 25 MHz: mul_u64_u32_div rounds 310000000.4 down.
    ticks = 775_000_001
    before = scale(PV_HZ, PV_HZ).apply(ticks)
    there = scale(PV_HZ, 25_000_000)
    assert there.apply(ticks * 25_000_000 // PV_HZ) < before
    assert there.apply(rebase(ticks, PV_HZ, PV_HZ, 25_000_000)) >= before


@given(
    pv_hz=hz,
    hosts=st.lists(st.tuples(hz, st.integers(0, 10**13), st.integers(0, 10**13)), min_size=1, max_size=12),
)
def test_a_chain_of_moves_pauses_and_saves_is_continuous_within_its_bound(
    pv_hz: int, hosts: list[tuple[int, int, int]]
) -> None:
    """Each host is its frequency, the time in ns that the guest runs there, and that it stands still."""
    counter, exact, bound = 0, Fraction(0), Fraction(0)
    last = 0
    old_hz = hosts[0][0]
    for host_hz, run_ns, _pause_ns in hosts:
        counter = rebase(counter, pv_hz, old_hz, host_hz)
        factor = scale(pv_hz, host_hz)
        assert factor.apply(counter) >= last, "a move took it back"
        ran = run_ns * host_hz // 10**9  # while it stands still the counter does, too
        counter += ran
        exact += Fraction(ran * pv_hz, host_hz)
        last = factor.apply(counter)
        # What a host adds: the tick that is cut off, the error of its factor, and the move's jump.
        bound += 1 + Fraction(counter, 1 << factor.fracbits) + -(-pv_hz // host_hz)
        assert abs(last - exact) <= bound
        old_hz = host_hz


@given(pv_hz=hz, old_hz=hz, new_hz=hz, seconds=centuries, ahead=st.integers(-(1 << 40), 1 << 40))
def test_a_timer_armed_before_a_move_is_met_at_its_lpt_and_not_a_tick_before(
    pv_hz: int, old_hz: int, new_hz: int, seconds: Fraction, ahead: int
) -> None:
    counter = int(seconds * old_hz)
    compare = max(0, counter + ahead)
    due = scale(pv_hz, old_hz).apply(compare)
    there = scale(pv_hz, new_hz)
    rebased = rebase(compare, pv_hz, old_hz, new_hz)
    assert there.apply(rebased) >= due, "it fires early"
    assert rebased == 0 or there.apply(rebased - 1) < due, "it fires late"
    if compare <= counter:
        assert rebased <= rebase(counter, pv_hz, old_hz, new_hz), "one that was met is met no more"


@given(never=st.integers(1 << 63, U64_MAX), old_hz=hz, new_hz=hz)
def test_a_timer_that_was_never_to_fire_never_does(never: int, old_hz: int, new_hz: int) -> None:
    assert rebase(never, PV_HZ, old_hz, new_hz) == never


# The structure and the calls, in every placement.


@pytest.fixture
def memories() -> Iterator[MemoryMap]:
    """Return a guest's memory."""
    memories = MemoryMap([])
    memories.allocate(RAM_BASE, 1 << 20, "RAM")
    yield memories
    memories.close()


@pytest.fixture(params=PlacementName)
def placement(request: pytest.FixtureRequest, memories: MemoryMap) -> Placement:
    """Return each placement."""
    return make_placement(request.param, memories, 2, STOLEN_TIME.base)


class Calls:
    """A guest that makes hypervisor calls of a machine with Live Physical Time."""

    def __init__(self, placement: Placement) -> None:
        self.lpt = LivePhysicalTime(placement.lpt(), PV_HZ)
        self.account = Account(placement.structure(0))

    def __call__(self, function: int, argument: int = 0) -> int:
        """Make one."""
        psci = PsciCalls([0, 1], FakePower(2))
        return hypercall(0, self.account, 0, psci, [function, argument, 0, 0], self.lpt)

    def ask(self) -> int:
        """Ask for the structure, as this placement has it; return its address."""
        if self.lpt.guest_provides:
            assert self(LptCall.SET, HERE | 1) == RegisterResult.SUCCESS
            return HERE
        return self(PvTime.LPT)


def read(memories: MemoryMap, ipa: int) -> LptStructure:
    """Return the structure that the guest reads."""
    memory = memories.find(ipa, STRUCTURE_STRIDE, Access.READ)
    return LptStructure.from_buffer_copy(memory.read(ipa, STRUCTURE_STRIDE))


def test_the_structure_has_48_bytes_and_its_padding() -> None:
    assert LptStructure.padding.offset == 48
    assert ctypes.sizeof(LptStructure) == STRUCTURE_STRIDE


def test_it_is_found_and_its_numbers_are_the_host_s(placement: Placement, memories: MemoryMap) -> None:
    call = Calls(placement)
    call.lpt.begin_run(25_000_000)
    if call.lpt.guest_provides:
        assert call(PvTime.FEATURES, PvTime.LPT) == NOT_SUPPORTED
        assert call(PvTime.LPT) == NOT_SUPPORTED
        assert call(RegisterCall.FEATURES, LptCall.SET) == SUCCESS
        assert not call.lpt.asked
    else:
        assert call(PvTime.FEATURES, PvTime.LPT) == SUCCESS
        assert call(LptCall.SET, HERE | 1) == call(LptCall.GET) == NOT_SUPPORTED
    ipa = call.ask()
    assert call.lpt.asked
    assert ipa == (HERE if call.lpt.guest_provides else STOLEN_TIME.base + LPT_OFFSET)
    found = read(memories, ipa)
    assert (found.revision, found.attributes) == (0, 0)
    assert (found.native_freq, found.pv_freq) == (25_000_000, PV_HZ)
    assert (found.scale_mult, found.fracbits) == ((5 << 62) // 2, 62)
    assert (found.rscale_mult, found.rfracbits) == ((2 << 63) // 5, 63)
    assert bytes(found.padding) == bytes(16)


@given(runs=st.lists(hz, min_size=1, max_size=6))
def test_the_sequence_number_counts_runs_and_is_even(runs: list[int]) -> None:
    with_ram = MemoryMap([])
    try:
        placement = make_placement(PlacementName.USERSPACE, with_ram, 1, STOLEN_TIME.base)
        lpt = LivePhysicalTime(placement.lpt(), PV_HZ)
        for number, native_hz in enumerate(runs, 1):
            lpt.begin_run(native_hz)
            found = read(with_ram, lpt.pv_time_lpt())
            assert found.sequence_number == 2 * number, (
                "bit 0 is reserved, bits 63:1 count the initial run too"
            )
            assert found.native_freq == native_hz
    finally:
        with_ram.close()


def test_without_it_the_number_is_not_supported_as_on_kvm(placement: Placement) -> None:
    psci = PsciCalls([0, 1], FakePower(2))
    account = Account(placement.structure(0))
    for question in (
        [PvTime.FEATURES, PvTime.LPT, 0, 0],
        [PvTime.LPT, 0, 0, 0],
        [LptCall.SET, HERE | 1, 0, 0],
    ):
        assert hypercall(0, account, 0, psci, question) == NOT_SUPPORTED


def test_another_call_changes_nothing(placement: Placement, memories: MemoryMap) -> None:
    call = Calls(placement)
    call.lpt.begin_run(25_000_000)
    ipa = call.ask()
    before = bytes(read(memories, ipa))
    if call.lpt.guest_provides:
        assert call(LptCall.SET, HERE + 64 | 1) == RegisterResult.IN_USE
        assert call(LptCall.GET) == HERE | 1
    else:
        assert call.ask() == ipa
    assert bytes(read(memories, ipa)) == before


@pytest.mark.parametrize("argument", [HERE | 3, HERE + 8 | 1, 1, 0xFFFF_FFFF_FFFF_FFC1, STOLEN_TIME.base | 1])
def test_an_address_that_is_no_place_for_it_is_refused(argument: int, memories: MemoryMap) -> None:
    call = Calls(make_placement(PlacementName.GUEST, memories, 2, STOLEN_TIME.base))
    assert call(LptCall.SET, argument) == RegisterResult.INVALID_PARAMETER
    assert call(LptCall.GET) == 0


@given(
    placement=st.sampled_from(PlacementName),
    calls=st.lists(
        st.tuples(
            st.sampled_from([*PvTime, *LptCall, *RegisterCall]),
            st.sampled_from(
                [0, 1, HERE | 1, HERE + 64 | 1, HERE | 3, STOLEN_TIME.base | 1, U64_MAX, *LptCall]
            )
            | st.integers(0, U64_MAX),
        ),
        max_size=12,
    ),
)
def test_no_call_does_harm(placement: PlacementName, calls: list[tuple[int, int]]) -> None:
    memories = MemoryMap([])
    try:
        memories.allocate(RAM_BASE, 1 << 20, "RAM")
        call = Calls(make_placement(placement, memories, 2, STOLEN_TIME.base))
        call.lpt.begin_run(25_000_000)
        for function, argument in calls:
            call(function, argument)
        call.lpt.begin_run(PV_HZ)
        assert call.lpt.fault is None
        if (ipa := call.lpt.ipa) is not None:
            assert read(memories, ipa).sequence_number == 4
            assert ipa != call.account.ipa
    finally:
        memories.close()


def test_no_two_structures_are_at_one_address(memories: MemoryMap) -> None:
    call = Calls(make_placement(PlacementName.GUEST, memories, 2, STOLEN_TIME.base))
    assert call(RegisterCall.SET, HERE | 1) == RegisterResult.SUCCESS
    assert call(LptCall.SET, HERE | 1) == RegisterResult.INVALID_PARAMETER
    assert call(RegisterCall.SET, 0) == RegisterResult.SUCCESS
    assert call(LptCall.SET, HERE | 1) == RegisterResult.SUCCESS
    assert call(RegisterCall.SET, HERE | 1) == RegisterResult.INVALID_PARAMETER


def test_a_guest_that_scribbles_over_its_structure_deceives_itself_until_the_next_run(
    placement: Placement, memories: MemoryMap
) -> None:
    call = Calls(placement)
    call.lpt.begin_run(25_000_000)
    ipa = call.ask()
    memories.find(ipa, STRUCTURE_STRIDE, Access.WRITE).write(ipa, b"\xff" * STRUCTURE_STRIDE)
    state = call.lpt.state()
    assert (state.sequence_number, state.asked) == (2, True)
    call.lpt.begin_run(PV_HZ)
    found = read(memories, ipa)
    assert (found.sequence_number, found.native_freq, found.revision) == (4, PV_HZ, 0)


def test_disabled_memory_is_left_alone(memories: MemoryMap) -> None:
    call = Calls(make_placement(PlacementName.GUEST, memories, 2, STOLEN_TIME.base))
    call.lpt.begin_run(25_000_000)
    ipa = call.ask()
    assert call(LptCall.SET, 0) == RegisterResult.SUCCESS
    assert not call.lpt.asked
    before = bytes(read(memories, ipa))
    call.lpt.begin_run(PV_HZ)
    assert bytes(read(memories, ipa)) == before
    assert call.lpt.fault is None


def test_a_reset_forgets_that_the_guest_asked(placement: Placement) -> None:
    call = Calls(placement)
    call.lpt.begin_run(PV_HZ)
    call.ask()
    call.lpt.reset()
    assert not call.lpt.asked
    assert call.lpt.state().registration == 0


def test_a_saved_state_goes_on_where_it_was(placement: Placement, memories: MemoryMap) -> None:
    call = Calls(placement)
    call.lpt.begin_run(25_000_000)
    ipa = call.ask()
    other = MemoryMap([])
    try:
        other.allocate(RAM_BASE, 1 << 20, "RAM")
        there = make_placement(placement.name, other, 2, STOLEN_TIME.base)
        lpt = LivePhysicalTime(there.lpt(), PV_HZ)
        lpt.restore(call.lpt.state())
        lpt.begin_run(PV_HZ)
        found = read(other, ipa)
        assert (found.sequence_number, found.native_freq) == (4, PV_HZ)
        assert lpt.asked
    finally:
        other.close()


def test_memory_that_was_taken_away_is_told_and_written_again_at_the_next_run(memories: MemoryMap) -> None:
    call = Calls(make_placement(PlacementName.USERSPACE, memories, 2, STOLEN_TIME.base))
    memories.protect(STOLEN_TIME, Access.READ)
    call.lpt.begin_run(PV_HZ)
    assert "read-only" in str(call.lpt.fault)
    memories.protect(STOLEN_TIME, Access.WRITE)
    call.lpt.begin_run(PV_HZ)
    assert call.lpt.fault is None
    assert read(memories, STOLEN_TIME.base + LPT_OFFSET).sequence_number == 4


def test_a_saved_registration_that_is_no_place_for_it_is_refused(memories: MemoryMap) -> None:
    call = Calls(make_placement(PlacementName.GUEST, memories, 2, STOLEN_TIME.base))
    call.lpt.begin_run(PV_HZ)
    call.ask()
    state = call.lpt.state()
    elsewhere = MemoryMap([])
    try:
        lpt = LivePhysicalTime(make_placement(PlacementName.GUEST, elsewhere, 2, 0).lpt(), PV_HZ)
        with pytest.raises(GuestMemoryError, match="Live Physical Time cannot be at 0x40010000"):
            lpt.restore(state)
    finally:
        elsewhere.close()
