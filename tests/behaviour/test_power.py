# SPDX-License-Identifier: GPL-2.0-or-later
"""PSCI as a guest uses it: processors on and off, the machine off and anew, and stolen time meanwhile."""

from __future__ import annotations

from framework.engines import Choice, host_of
from framework.payload import Payload, boot_on, run_on
from pvtime.abi.psci import VERSION_1_1, Affinity, Psci, PsciReturn
from pvtime.abi.pvtime import PvTime, StolenTime
from pvtime.machine.layout import CONSOLE, STOLEN_TIME

COUNT = StolenTime.stolen_time.offset
MADE_UP = 1 << 62


def signed(value: int) -> int:
    """Read a register as a return code."""
    return value - (value >> 63 << 64)


def test_psci_says_its_version_and_what_it_has(engine: Choice) -> None:
    payload = Payload().call(Psci.VERSION).keep(0, 0).call(Psci.MIGRATE_INFO_TYPE).keep(0, 1)
    for slot, function in enumerate(Psci, start=2):
        payload.call(Psci.FEATURES, function).keep(0, slot)
    results = run_on(engine, payload.power_off()).results
    assert results[: 2 + len(Psci)] == (VERSION_1_1, 2, *[0] * len(Psci))


def test_what_it_does_not_have_is_not_supported(engine: Choice) -> None:
    # MIGRATE, CPU_FREEZE, CPU_DEFAULT_SUSPEND, NODE_HW_STATE, SYSTEM_SUSPEND, MEM_PROTECT
    functions = (0x8400_0005, 0x8400_000B, 0x8400_000C, 0x8400_000D, 0xC400_000E, 0x8400_0013)
    payload = Payload()
    for slot, function in enumerate(functions):
        payload.call(Psci.FEATURES, function).keep(0, 2 * slot).call(function).keep(0, 2 * slot + 1)
    results = run_on(engine, payload.power_off()).results[: 2 * len(functions)]
    assert {signed(result) for result in results} == {PsciReturn.NOT_SUPPORTED}


def test_a_processor_is_switched_on_runs_with_its_argument_and_switches_itself_off(engine: Choice) -> None:
    payload = Payload().call(Psci.AFFINITY_INFO_64, 1, 0).keep(0, 0)
    payload.cpu_on(1, "second", context=0xC0FFEE).keep(0, 1).await_result(10)
    payload.call(Psci.AFFINITY_INFO_64, 1, 0).keep(0, 2).cpu_on(1, "second").keep(0, 3)
    payload.mov(1, 1).keep(1, 11).label("still on").call(Psci.AFFINITY_INFO_64, 1, 0).cbz(0, "still on")
    payload.keep(0, 4).power_off()
    payload.label("second").keep(0, 10).await_result(11).call(Psci.CPU_OFF).keep(0, 12).halt()
    results = run_on(engine, payload, vcpus=2).results
    assert results[:3] == (Affinity.OFF, PsciReturn.SUCCESS, Affinity.ON)
    assert signed(results[3]) == PsciReturn.ALREADY_ON
    assert results[4] == Affinity.OFF
    assert results[10] == 0xC0FFEE
    assert results[12] == 0, "CPU_OFF returned"


def test_a_processor_switched_on_again_starts_afresh(engine: Choice) -> None:
    payload = Payload().cpu_on(1, "second", 5).label("on").call(Psci.AFFINITY_INFO_64, 1, 0).cbz(0, "on")
    payload.cpu_on(1, "again", 6).await_result(1).power_off()
    payload.label("second").keep(0, 0).mov(20, 99).cpu_off()
    payload.label("again").keep(20, 2).keep(0, 1).label("rest").wfi().b("rest")
    assert run_on(engine, payload, vcpus=2).results[:3] == (5, 6, 0)


def test_a_processor_that_comes_back_keeps_its_count_until_it_asks_and_then_begins_anew(
    engine: Choice,
) -> None:
    payload = Payload().cpu_on(1, "second").label("on").call(Psci.AFFINITY_INFO_64, 1, 0).cbz(0, "on")
    payload.mov(11, STOLEN_TIME.base + 64).load(12, 11, COUNT).keep(12, 0)
    payload.cpu_on(1, "again").await_result(4).power_off()
    payload.label("second").call(PvTime.ST).keep(0, 8).mov(1, MADE_UP).store(1, 0, COUNT).cpu_off()
    payload.label("again").mov(11, STOLEN_TIME.base + 64).load(12, 11, COUNT).keep(12, 1)
    payload.call(PvTime.ST).keep(0, 2).load(12, 11, COUNT).keep(12, 3).mov(1, 1).keep(1, 4)
    payload.label("rest").wfi().b("rest")
    finished = run_on(engine, payload, vcpus=2)
    while_off, back, ipa, anew = finished.results[:4]
    assert ipa == finished.results[8] == STOLEN_TIME.base + 64, "it moved"
    assert MADE_UP <= while_off <= back, "it ran backwards without a call"
    assert anew < MADE_UP, "PV_TIME_ST did not begin anew"
    assert finished.samples[1].enabled


def test_a_processor_that_is_off_is_not_stolen_from(engine: Choice) -> None:
    payload = Payload().cpu_on(1, "second").label("on").call(Psci.AFFINITY_INFO_64, 1, 0).cbz(0, "on")
    payload.mov(1, 1).keep(1, 0).spin(2_000_000).mov(1, 1).keep(1, 1).await_result(2).power_off()
    payload.label("second").call(PvTime.ST).cpu_off()
    with boot_on(engine, payload, vcpus=2) as guest:
        guest.engine.start()
        host = host_of(guest.engine)
        host.share_one_cpu()
        guest.until(lambda: guest.result(0) and host.asleep(1))
        before = host.run_delay(1), guest.machine.stolen_time.read(STOLEN_TIME.base + 64, 16)
        guest.until(lambda: guest.result(1))
        assert (host.run_delay(1), guest.machine.stolen_time.read(STOLEN_TIME.base + 64, 16)) == before
        guest.tell(2)
        guest.end()


def test_there_is_no_processor_beyond_the_machines(engine: Choice) -> None:
    payload = Payload()
    for slot, target in enumerate([2, 0x100, 0x1_0000, 1 << 32, 1 << 24, 1 << 31, (1 << 64) - 1]):
        payload.mov(0, Psci.CPU_ON_64).mov(1, target).mov(2, 0).hvc().keep(0, 2 * slot)
        payload.call(Psci.AFFINITY_INFO_64, target, 0).keep(0, 2 * slot + 1)
    results = run_on(engine, payload.power_off(), vcpus=2).results
    assert {signed(result) for result in results[:14]} == {PsciReturn.INVALID_PARAMETERS}


def test_affinity_levels_are_0_to_3(engine: Choice) -> None:
    payload = Payload()
    for slot, level in enumerate([0, 1, 2, 3, 4, 1 << 32]):
        payload.call(Psci.AFFINITY_INFO_64, 1, level).keep(0, slot)
    payload.call(Psci.AFFINITY_INFO, 1, 1 << 32).keep(0, 6)
    results = [signed(result) for result in run_on(engine, payload.power_off(), vcpus=2).results[:7]]
    invalid = PsciReturn.INVALID_PARAMETERS
    # From level 1 on the caller is among those named, and on.
    assert results == [Affinity.OFF, Affinity.ON, Affinity.ON, Affinity.ON, invalid, invalid, Affinity.OFF]


def test_system_off_stops_every_vcpu(engine: Choice) -> None:
    payload = Payload().cpu_on(1, "second").await_result(0).call(Psci.SYSTEM_OFF).mov(1, 1).keep(1, 1).halt()
    payload.label("second").mov(1, 1).keep(1, 0).label("spin").b("spin")
    assert run_on(engine, payload, vcpus=2).results[:2] == (1, 0), "SYSTEM_OFF returned"


def test_a_reset_starts_the_machine_anew_and_the_guest_must_ask_again(engine: Choice) -> None:
    # Each start says how much of what the last one wrote is left, and waits for the host to say how to go on.
    payload = Payload().mov(10, STOLEN_TIME.base).load(11, 10, COUNT).mov(12, STOLEN_TIME.base + 64 * 100)
    payload.load(13, 12).shift_right(11, 11, 62)
    payload.add_register(11, 11, 13).add(11, 11, ord("0")).mov(9, CONSOLE.base).store(11, 9, size=1)
    payload.await_result(1).sub(27, 27, 1).cbnz(27, "off").mov(14, 1).store(14, 12)
    payload.call(PvTime.ST).mov(1, MADE_UP).store(1, 10, COUNT)
    payload.cpu_on(1, "spin").call(Psci.SYSTEM_RESET).halt()
    payload.label("off").power_off().label("spin").b("spin")
    with boot_on(engine, payload, vcpus=2) as guest:
        guest.engine.start()
        for start, how in enumerate([1, 1, 2]):
            while len(guest.console) <= start:
                assert guest.engine.wait(0.001) is None
            samples = guest.engine.sample()
            assert not any(sample.enabled for sample in samples)
            assert [sample.structure_ns for sample in samples] == [sample.truth_ns for sample in samples]
            guest.tell(1, how)
        guest.end()
        assert guest.console == b"000", "what the last life wrote is there still"


def test_a_reset_of_a_type_of_the_vendors_own_is_one_too(engine: Choice) -> None:
    payload = Payload().call(Psci.SYSTEM_RESET2, 1).keep(0, 0).mov(9, CONSOLE.base).mov(1, ord("r"))
    payload.store(1, 9, size=1).await_result(1).sub(27, 27, 1).cbnz(27, "off")
    payload.call(Psci.SYSTEM_RESET2_64, 0x8000_0000).label("off").power_off()
    with boot_on(engine, payload) as guest:
        guest.engine.start()
        for start, how in enumerate([1, 2]):
            while len(guest.console) <= start:
                assert guest.engine.wait(0.001) is None
            guest.tell(1, how)
        guest.end()
        assert guest.console == b"rr"
        assert signed(guest.result(0)) == PsciReturn.INVALID_PARAMETERS
