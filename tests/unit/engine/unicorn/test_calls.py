# SPDX-License-Identifier: GPL-2.0-or-later
"""Hypervisor calls as a guest makes them: what it finds in its registers and in its structure."""

from __future__ import annotations

import pytest

from framework.payload import RESULTS, Payload, boot, both_cores, run
from framework.wait import DEADLINE
from pvtime.abi.psci import VERSION_1_1, Affinity, Psci, PsciReturn
from pvtime.abi.pvtime import PvTime, StolenTime
from pvtime.abi.smccc import NOT_SUPPORTED, Smccc
from pvtime.engine.base import Outcome
from pvtime.engine.unicorn.context import Context
from pvtime.engine.unicorn.core import Exit
from pvtime.errors import EngineError
from pvtime.machine.layout import CONSOLE, STOLEN_TIME
from pvtime.steal.account import Account

NONE = (1 << 64) - 1
COUNT = StolenTime.stolen_time.offset

pytestmark = both_cores


def signed(value: int) -> int:
    """Read a register as a return code."""
    return value - (value >> 63 << 64)


def test_a_guest_discovers_stolen_time_as_linux_does(internals: str) -> None:
    payload = Payload().call(Smccc.VERSION).keep(0, 0)
    payload.call(Smccc.ARCH_FEATURES, PvTime.FEATURES).keep(0, 1)
    payload.call(PvTime.FEATURES, PvTime.ST).keep(0, 2)
    payload.call(PvTime.ST).keep(0, 3).power_off()
    finished = run(payload, internals)
    assert finished.results[:4] == (0x1_0001, 0, 0, STOLEN_TIME.base)
    assert finished.samples[0].enabled


def test_a_call_leaves_zero_in_x1_to_x3_and_nothing_else_changed(internals: str) -> None:
    payload = Payload().mov(4, 44).mov(30, 3030).call(PvTime.ST, 11, 22, 33)
    payload.keep(1, 0).keep(2, 1).keep(3, 2).keep(4, 3).keep(30, 4).power_off()
    assert run(payload, internals).results[:5] == (0, 0, 0, 44, 3030)


def test_an_unknown_call_is_not_supported_in_all_64_bits(internals: str) -> None:
    payload = Payload().call(0xC500_0022).keep(0, 0).call(0x8600_FF01).keep(0, 1).power_off()
    assert run(payload, internals).results[:2] == (NONE, NONE)


def test_psci_says_its_version_and_what_it_has(internals: str) -> None:
    payload = Payload().call(Psci.VERSION).keep(0, 0).call(Psci.FEATURES, Psci.CPU_ON_64).keep(0, 1)
    payload.call(Psci.FEATURES, 0x8400_0007).keep(0, 2).call(Psci.MIGRATE_INFO_TYPE).keep(0, 3).power_off()
    assert run(payload, internals).results[:4] == (VERSION_1_1, 0, NONE, 2)


def test_every_vcpu_has_a_structure_of_its_own(internals: str) -> None:
    payload = Payload().label("each").call(PvTime.ST).own_index(10).mov(11, 0x4010_0000)
    payload.add_register(11, 11, 10, shift=3).store(0, 11).cbnz(10, "wait")
    for other in range(1, 8):
        payload.cpu_on(other, "each").await_result(other)
    payload.power_off().label("wait").wfi().b("wait")
    finished = run(payload, internals, vcpus=8)
    assert finished.results[:8] == tuple(STOLEN_TIME.base + 64 * index for index in range(8))
    assert all(sample.enabled for sample in finished.samples)


def test_pv_time_st_zeroes_the_structure_again_at_every_call(internals: str) -> None:
    payload = Payload().call(PvTime.ST).copy(20, 0).mov(1, NONE).store(1, 20, COUNT).store(1, 20)
    payload.load(2, 20, COUNT).keep(2, 0)
    payload.call(PvTime.ST).load(2, 20, COUNT).keep(2, 1).load(2, 20).keep(2, 2).power_off()
    assert run(payload, internals).results[:3] == (NONE, 0, 0)


def test_a_processor_is_switched_on_runs_with_its_argument_and_switches_itself_off(internals: str) -> None:
    payload = Payload().call(Psci.AFFINITY_INFO_64, 1, 0).keep(0, 0)
    payload.cpu_on(1, "second", context=0xC0FFEE).keep(0, 1).await_result(10)
    payload.call(Psci.AFFINITY_INFO_64, 1, 0).keep(0, 2).cpu_on(1, "second").keep(0, 3)
    payload.mov(1, 1).keep(1, 11).label("still on").call(Psci.AFFINITY_INFO_64, 1, 0).cbz(0, "still on")
    payload.keep(0, 4).power_off()
    payload.label("second").keep(0, 10).await_result(11).call(Psci.CPU_OFF).keep(0, 12)
    finished = run(payload, internals, vcpus=2)
    assert finished.results[0] == Affinity.OFF
    assert finished.results[1:3] == (PsciReturn.SUCCESS, Affinity.ON)
    assert signed(finished.results[3]) == PsciReturn.ALREADY_ON
    assert finished.results[4] == Affinity.OFF
    assert finished.results[10] == 0xC0FFEE
    assert finished.results[12] == 0, "CPU_OFF returned"


def test_a_processor_is_made_ready_between_two_runs_and_not_in_the_call(
    internals: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In the call, the CPU's registers were saved, used to make the new processor's, and restored, during a
    # run: now and then the caller, a real kernel, had a corrupted stack afterwards.
    payload = Payload().cpu_on(1, "second").await_result(0).power_off()
    payload.label("second").mov(1, 1).keep(1, 0).label("rest").wfi().b("rest")
    with boot(payload, internals, vcpus=2) as guest:
        core, running, made = guest.engine.vm.core, [False], []
        run, new_context = core.run, core.contexts.new

        def watched_run() -> Exit:
            running[0] = True
            try:
                return run()
            finally:
                running[0] = False

        def watched_new_context(mpidr: int, entry: int, context: int) -> Context:
            made.append((mpidr, running[0]))
            return new_context(mpidr, entry, context)

        monkeypatch.setattr(core, "run", watched_run)
        monkeypatch.setattr(core.contexts, "new", watched_new_context)
        guest.finish()
        assert made == [(0, False), (1, False)]


def test_a_processor_switched_on_again_starts_afresh(internals: str) -> None:
    payload = Payload().cpu_on(1, "second", 5).label("on").call(Psci.AFFINITY_INFO_64, 1, 0).cbz(0, "on")
    payload.cpu_on(1, "again", 6).await_result(1).power_off()
    payload.label("second").keep(0, 0).mov(20, 99).call(Psci.CPU_OFF)
    payload.label("again").keep(20, 2).keep(0, 1).wfi()
    assert run(payload, internals, vcpus=2).results[:3] == (5, 6, 0)


def test_there_is_no_processor_beyond_the_machines(internals: str) -> None:
    payload = Payload().mov(0, Psci.CPU_ON_64).mov(1, 2).mov(2, 0).hvc().keep(0, 0)
    payload.call(Psci.AFFINITY_INFO_64, 2, 0).keep(0, 1).power_off()
    results = run(payload, internals, vcpus=2).results
    assert [signed(result) for result in results[:2]] == [PsciReturn.INVALID_PARAMETERS] * 2


def test_a_reset_starts_the_machine_anew_and_the_guest_must_ask_again(internals: str) -> None:
    # Each start says '0' if what the last one wrote is gone, and waits for the host to say how to go on.
    payload = Payload().mov(10, STOLEN_TIME.base).load(11, 10, COUNT).mov(12, RESULTS).load(13, 12)
    payload.shift_right(11, 11, 63)
    payload.add_register(11, 11, 13).add(11, 11, ord("0")).mov(9, CONSOLE.base).store(11, 9, size=1)
    payload.await_result(1).sub(27, 27, 1).cbnz(27, "off")
    payload.call(PvTime.ST).mov(1, 1 << 63).store(1, 10, COUNT).keep(1, 0).call(Psci.SYSTEM_RESET)
    payload.mov(1, ord("X")).store(1, 9, size=1).label("off").power_off()
    with boot(payload, internals) as guest:
        guest.engine.start()
        for start, how in enumerate([1, 1, 2]):
            while len(guest.console) <= start:
                assert guest.engine.wait(0.001) is None
            sample = guest.engine.sample()[0]
            assert not sample.enabled
            assert sample.structure_ns == sample.truth_ns
            guest.machine.memory.store_u64(RESULTS + 8, how)
        assert guest.engine.wait(DEADLINE) is Outcome.POWER_OFF
        assert guest.console == b"000", "memory survived, or SYSTEM_RESET returned"


def test_the_call_that_is_unknown_does_not_count_as_supported(internals: str) -> None:
    payload = Payload().call(Smccc.ARCH_FEATURES, PvTime.ST).keep(0, 0).power_off()
    assert signed(run(payload, internals).results[0]) == NOT_SUPPORTED


def test_nobody_waits_for_an_engine_that_fails_at_its_end(
    monkeypatch: pytest.MonkeyPatch, internals: str
) -> None:
    # The last update raised where nothing caught it: the run did not even end at a SIGTERM.
    def raise_always(account: Account, run_delay: int) -> None:
        raise KeyError(run_delay)

    monkeypatch.setattr(Account, "update_stolen_time", raise_always)
    with boot(Payload().label("loop").b("loop"), internals) as guest:
        guest.engine.start()
        guest.engine.stop()
        with pytest.raises(EngineError, match=r"the engine failed.*KeyError"):
            guest.engine.wait(DEADLINE)
