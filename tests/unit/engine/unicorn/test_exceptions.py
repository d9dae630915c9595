# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest gets that goes where nothing is, and that it cannot end or hold its host."""

from __future__ import annotations

import threading

import pytest

from framework.payload import Payload, boot, both_cores, run
from framework.wait import DEADLINE
from pvtime.abi.arm64 import CNTP_CTL_EL0, CNTP_CVAL_EL0, Esr, ExceptionClass
from pvtime.abi.psci import Psci
from pvtime.engine.base import Outcome
from pvtime.machine.layout import CONSOLE, GIC_CPU_INTERFACE, RAM_BASE, STOLEN_TIME
from pvtime.probe.assembler import VBAR_EL1

HOLE = 0x1000
BEHIND_RAM = RAM_BASE + (64 << 20)
TOP = 1 << 43
EXTERNAL_ABORT = 0x10

pytestmark = both_cores


def fault_of(payload: Payload, internals: str) -> tuple[Esr, int, int]:
    """Run a payload that must fault, and return ESR_EL1, FAR_EL1 and ELR_EL1."""
    payload.keep(0, 10).power_off().vectors(sync="fault").label("fault").keep_fault(0).power_off()
    results = run(payload, internals).results
    assert results[10] == 0, "the payload went on as if nothing had happened"
    return Esr(results[0]), results[1], results[2]


@pytest.mark.parametrize("address", [HOLE, CONSOLE.base, GIC_CPU_INTERFACE.base, BEHIND_RAM, TOP - 4])
def test_a_jump_to_where_no_memory_is_is_an_abort_for_the_guest(address: int, internals: str) -> None:
    # With the library's internals the abort was entered between two runs, where no exception is under way,
    # and the library ended the whole process over that.
    esr, far, elr = fault_of(Payload().use_vectors().mov(1, address).br(1), internals)
    assert (esr.ec, esr.fault_status) == (ExceptionClass.INSTRUCTION_ABORT, EXTERNAL_ABORT)
    assert (far, elr) == (address, address)


def test_a_jump_beyond_all_addresses_is_an_address_size_fault(internals: str) -> None:
    esr, far, _ = fault_of(Payload().use_vectors().mov(1, 1 << 48).br(1), internals)
    assert (esr.ec, esr.fault_status) == (ExceptionClass.INSTRUCTION_ABORT, 0)
    assert far == 1 << 48


def test_a_jump_into_stolen_time_runs_what_is_there(internals: str) -> None:
    esr, _, elr = fault_of(Payload().use_vectors().mov(1, STOLEN_TIME.base).br(1), internals)
    assert (esr.ec, elr) == (ExceptionClass.UNKNOWN, STOLEN_TIME.base), "sixteen zeros are no instruction"


def test_a_breakpoint_is_delivered_with_its_comment(internals: str) -> None:
    payload = Payload().use_vectors().label("here").brk(0x123)
    esr, _, elr = fault_of(payload, internals)
    assert esr == 0xF200_0123
    assert elr == payload.address("here")


@pytest.mark.parametrize("address", [HOLE, BEHIND_RAM, TOP])
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_where_nothing_is_reads_are_zero_and_writes_are_ignored(
    address: int, size: int, internals: str
) -> None:
    payload = Payload().mov(1, address).mov(2, (1 << 64) - 1)
    payload.store(2, 1, size=size).load(3, 1, size=size).keep(2, 0).keep(3, 1).power_off()
    assert run(payload, internals).results[:2] == ((1 << 64) - 1, 0)


def test_smc_does_not_exist_and_says_so(internals: str) -> None:
    payload = Payload().mov(0, Psci.VERSION).smc().keep(0, 0).power_off()
    assert run(payload, internals).results[0] == (1 << 64) - 1


def test_a_processor_that_starts_where_no_memory_is_disturbs_nobody(internals: str) -> None:
    payload = Payload().call(Psci.CPU_ON_64, 1, BEHIND_RAM - 2).keep(0, 0).spin(10_000)
    assert run(payload.power_off(), internals, vcpus=2).results[0] == 0


@pytest.mark.parametrize("vectors", [HOLE, CONSOLE.base, BEHIND_RAM - 0x800, 1 << 48, -0x800 % (1 << 64)])
def test_a_guest_whose_vectors_fault_can_be_stopped(vectors: int, internals: str) -> None:
    # By the public interface it could not: it enters one exception after the other and never starts the
    # block of code at whose start a run is ended.
    payload = Payload().mov(1, vectors).msr(VBAR_EL1, 1).mov(0, 1).keep(0, 0).word(0)
    with boot(payload, internals) as guest:
        guest.engine.start()
        guest.until(lambda: guest.result(0))
        stopper = threading.Thread(target=guest.engine.stop, daemon=True)
        stopper.start()
        stopper.join(DEADLINE)
        assert not stopper.is_alive(), "the guest holds its host"
        assert guest.engine.wait(0) is Outcome.STOPPED


def test_a_guest_whose_vectors_fault_does_not_hold_other_vcpus(internals: str) -> None:
    payload = Payload().cpu_on(1, "other").await_result(0).spin(1000).power_off()
    payload.label("other").mov(1, 1).keep(1, 0).mov(1, 1 << 48).msr(VBAR_EL1, 1).word(0)
    run(payload, internals, vcpus=2)


@pytest.mark.parametrize("compare", [(1 << 64) - 1, 1 << 63, 1 << 60, 1 << 59])
def test_a_timer_set_to_the_end_of_time_does_not_end_the_engine(compare: int, internals: str) -> None:
    # Its 2^68 ns are more than the host's clock takes: the sleep until then raised OverflowError.
    payload = Payload().mov(1, 1).keep(1, 0).mov(2, compare).msr(CNTP_CVAL_EL0, 2).msr(CNTP_CTL_EL0, 1).wfi()
    with boot(payload, internals) as guest:
        guest.engine.start()
        guest.until(lambda: guest.result(0))
        for _ in range(3):
            assert guest.engine.sample()[0].truth_ns >= 0
            assert guest.engine.wait(0.01) is None, "the engine gave up"
