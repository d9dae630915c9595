# SPDX-License-Identifier: GPL-2.0-or-later
"""The PV-time service calls as a guest makes them, with their oddities: alike on every engine."""

from __future__ import annotations

import pytest

from framework.engines import Choice
from framework.payload import RESULTS, Payload, boot_on, run_on
from pvtime.abi.pvtime import PvTime, StolenTime
from pvtime.abi.smccc import Smccc
from pvtime.engine.base import Outcome
from pvtime.machine.layout import STOLEN_TIME

NONE = (1 << 64) - 1
COUNT = StolenTime.stolen_time.offset
MADE_UP = 1 << 62
"""ns; no guest of a test is stolen so much from."""


def test_a_guest_discovers_stolen_time_as_linux_does(engine: Choice) -> None:
    payload = Payload().call(Smccc.VERSION).keep(0, 0)
    payload.call(Smccc.ARCH_FEATURES, PvTime.FEATURES).keep(0, 1)
    payload.call(PvTime.FEATURES, PvTime.ST).keep(0, 2)
    payload.call(PvTime.ST).keep(0, 3).power_off()
    finished = run_on(engine, payload)
    assert finished.results[:4] == (0x1_0001, 0, 0, STOLEN_TIME.base)
    assert finished.samples[0].enabled


def test_who_has_not_asked_has_not_enabled_it(engine: Choice) -> None:
    payload = (
        Payload().call(PvTime.FEATURES, PvTime.ST).call(Smccc.ARCH_FEATURES, PvTime.FEATURES).power_off()
    )
    assert not run_on(engine, payload).samples[0].enabled


def test_features_are_of_pv_time_alone_and_of_themselves(engine: Choice) -> None:
    payload = Payload().call(PvTime.FEATURES, PvTime.FEATURES).keep(0, 0)
    for slot, function in enumerate([0xC500_0022, 0x8500_0021, Smccc.VERSION, 0], start=1):
        payload.call(PvTime.FEATURES, function).keep(0, slot)
    # ARCH_FEATURES knows PV_TIME_FEATURES and not PV_TIME_ST.
    payload.call(Smccc.ARCH_FEATURES, PvTime.ST).keep(0, 5).power_off()
    assert run_on(engine, payload).results[:6] == (0, NONE, NONE, NONE, NONE, NONE)


def test_the_upper_half_of_a_function_identifier_is_ignored(engine: Choice) -> None:
    payload = Payload().call(0xDEAD_BEEF_0000_0000 | PvTime.ST).keep(0, 0)
    payload.call(PvTime.FEATURES, 0xFFFF_FFFF_0000_0000 | PvTime.ST).keep(0, 1)
    payload.call(Smccc.ARCH_FEATURES, 0x1_0000_0000 | PvTime.FEATURES).keep(0, 2).power_off()
    assert run_on(engine, payload).results[:3] == (STOLEN_TIME.base, 0, 0)


def test_the_32_bit_forms_do_not_exist(engine: Choice) -> None:
    payload = Payload().call(0x8500_0020, PvTime.ST).keep(0, 0).call(0x8500_0021).keep(0, 1).power_off()
    assert run_on(engine, payload).results[:2] == (NONE, NONE)


def test_a_call_leaves_zero_in_x1_to_x3_and_nothing_else_changed(engine: Choice) -> None:
    payload = Payload().mov(4, 44).mov(30, 3030).call(PvTime.ST, 11, 22, 33)
    payload.keep(1, 0).keep(2, 1).keep(3, 2).keep(4, 3).keep(30, 4).power_off()
    assert run_on(engine, payload).results[:5] == (0, 0, 0, 44, 3030)


def test_smc_is_no_conduit_and_says_so(engine: Choice) -> None:
    payload = Payload().mov(0, PvTime.ST).mov(1, 11).smc().keep(0, 0).keep(1, 1).power_off()
    finished = run_on(engine, payload)
    assert finished.results[:2] == (NONE, 11)
    assert not finished.samples[0].enabled


@pytest.mark.parametrize("vcpus", [1, 2, 4, 8])
def test_every_vcpu_has_a_structure_of_its_own(vcpus: int, engine: Choice) -> None:
    payload = Payload().label("each").call(PvTime.ST).own_index(10).mov(11, RESULTS)
    payload.add_register(11, 11, 10, shift=3).store(0, 11).cbnz(10, "wait")
    for other in range(1, vcpus):
        payload.cpu_on(other, "each").await_result(other)
    payload.power_off().label("wait").wfi().b("wait")
    finished = run_on(engine, payload, vcpus)
    assert finished.results[:vcpus] == tuple(STOLEN_TIME.base + 64 * index for index in range(vcpus))
    assert all(sample.enabled for sample in finished.samples)


def test_pv_time_st_is_no_query_but_starts_counting_anew(engine: Choice) -> None:
    payload = Payload().mov(10, 3).label("again").call(PvTime.ST).copy(20, 0).load(2, 20, COUNT)
    payload.mov(11, RESULTS).add_register(11, 11, 10, shift=3).store(2, 11)
    payload.mov(1, MADE_UP).store(1, 20, COUNT).sub(10, 10, 1).cbnz(10, "again").power_off()
    counts = run_on(engine, payload).results[1:4]
    assert all(count < MADE_UP for count in counts), "what stood there is there still"


def test_it_writes_all_64_bytes_and_none_of_its_neighbours(engine: Choice) -> None:
    # The neighbour is vCPU 1's, which is off: nobody else writes there.
    payload = Payload().mov(20, STOLEN_TIME.base).mov(1, NONE)
    for offset in range(0, 128, 8):
        payload.store(1, 20, offset)
    payload.call(PvTime.ST)
    for slot, offset in enumerate(range(0, 128, 8)):
        payload.load(1, 20, offset).keep(1, slot)
    payload.power_off()
    words = run_on(engine, payload, vcpus=2).results[:16]
    assert words[0] == 0, "revision and attributes"
    assert words[1] < MADE_UP, "stolen_time"
    assert words[2:8] == (0,) * 6, "padding"
    assert words[8:] == (NONE,) * 8, "another vCPU's structure was written"


def test_what_is_written_into_the_structure_is_kept_and_counted_on(engine: Choice) -> None:
    payload = Payload().call(PvTime.ST).mov(1, MADE_UP).store(1, 0, COUNT).mov(1, 1).keep(1, 0)
    payload.await_result(1).power_off()
    with boot_on(engine, payload) as guest:
        guest.engine.start()
        while not guest.result(0):
            assert guest.engine.wait(0) is None
        (sample,) = guest.engine.sample()
        assert sample.count_ns - sample.truth_ns == MADE_UP or engine.name == "kvm"
        assert sample.count_ns >= MADE_UP
        assert sample.truth_ns < MADE_UP, "the guest has deceived its host"
        guest.tell(1)
        assert guest.engine.wait() is Outcome.POWER_OFF
