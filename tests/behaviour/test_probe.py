# SPDX-License-Identifier: GPL-2.0-or-later
"""The probe, the guest that scenarios are made with, does what it is told: alike on every engine."""

from __future__ import annotations

import pytest

from framework.engines import Choice, host_of
from framework.wait import DEADLINE
from pvtime.abi.arm64 import CNTVCT_EL0, ExceptionClass, SysReg
from pvtime.abi.psci import VERSION_1_1, Affinity, Psci
from pvtime.abi.pvtime import PvTime
from pvtime.engine.base import Outcome
from pvtime.machine.layout import RAM_BASE, STOLEN_TIME
from pvtime.probe.assembler import MPIDR_EL1
from pvtime.probe.guest import boot, guest
from pvtime.probe.mailbox import CODE
from pvtime.probe.mailbox_client import ProbeError, ProbeFaultError
from pvtime.probe.probe import Difference, Probe

MEMORY = RAM_BASE + (16 << 20)
"""RAM that nobody uses."""

TPIDR_EL0 = SysReg(3, 3, 13, 0, 2)
DEVICE_TREE = 0xD00D_FEED
WORD = 0x1122_3344_5566_7788
PATTERN = 0xA5A5_A5A5_A5A5_A5A5


def test_it_makes_hypervisor_calls(engine: Choice) -> None:
    with boot(engine.build, guest()) as probe:
        assert probe.call(0, Psci.VERSION) == (VERSION_1_1, 0, 0, 0)
        assert probe.repeat_call(0, Psci.VERSION, 3) == (VERSION_1_1, 0, 0, 0)
        assert probe.call(0, PvTime.ST)[0] == STOLEN_TIME.base
        assert probe.load(0, STOLEN_TIME.base) == 0, "revision and attributes"


def test_it_starts_as_a_kernel_does(engine: Choice) -> None:
    with boot(engine.build, guest()) as probe:
        assert probe.load(0, probe.context(0), 4).to_bytes(4, "little") == DEVICE_TREE.to_bytes(4, "big")


def test_it_loads_and_stores_words_and_parts_of_them(engine: Choice) -> None:
    with boot(engine.build, guest()) as probe:
        probe.store(0, MEMORY, WORD)
        assert [probe.load(0, MEMORY, size) for size in (8, 4, 1)] == [WORD, 0x5566_7788, 0x88]
        probe.store(0, MEMORY, 0xFFFF, size=1)
        assert probe.load(0, MEMORY) == 0x1122_3344_5566_77FF
        probe.store(0, MEMORY + 4, WORD, size=4)
        assert probe.load(0, MEMORY) == 0x5566_7788_5566_77FF


def test_it_sees_what_its_host_writes_and_the_host_sees_what_it_writes(engine: Choice) -> None:
    with boot(engine.build, guest()) as probe:
        for value in range(1, 50):
            probe.machine.memory.store_u64(MEMORY, value)
            assert probe.load(0, MEMORY) == value
            probe.store(0, MEMORY, value << 32)
            assert probe.machine.memory.load_u64(MEMORY) == value << 32


def test_it_fills_copies_and_finds_what_is_different(engine: Choice) -> None:
    size = 1 << 16
    with boot(engine.build, guest()) as probe:
        probe.fill(0, MEMORY, size, PATTERN)
        assert probe.differences(0, MEMORY, size, PATTERN) == []
        assert probe.load(0, MEMORY + size) == 0, "it wrote too far"
        probe.store(0, MEMORY, 1)
        probe.machine.memory.write(MEMORY + 0x104, b"\1\2\3\4")
        probe.store(0, MEMORY + size - 8, 3)
        probe.copy(0, MEMORY + size, MEMORY, size)
        assert probe.differences(0, MEMORY + size, size, PATTERN) == [
            Difference(MEMORY + size, 1),
            Difference(MEMORY + size + 0x100, 0x0403_0201_A5A5_A5A5),
            Difference(MEMORY + 2 * size - 8, 3),
        ]


def test_an_exception_is_an_answer_and_the_next_command_another(engine: Choice) -> None:
    nowhere = 1 << 40
    with boot(engine.build, guest()) as probe:
        with pytest.raises(ProbeFaultError, match="vCPU 0: load 0x10000000000 0x8") as fault:
            probe.load(0, nowhere)
        assert (fault.value.esr.ec, fault.value.far) == (ExceptionClass.DATA_ABORT, nowhere)
        assert RAM_BASE <= fault.value.elr < RAM_BASE + CODE
        with pytest.raises(ProbeFaultError) as fault:
            probe.execute(0, 0)
        assert fault.value.esr.ec == ExceptionClass.UNKNOWN
        assert probe.call(0, Psci.VERSION)[0] == VERSION_1_1


def test_it_executes_what_it_is_given_with_registers_in_and_out(engine: Choice) -> None:
    add_x3_x1_x2 = 0x8B02_0023
    with boot(engine.build, guest()) as probe:
        assert probe.execute(0, add_x3_x1_x2, 1, 20, 300, 4000) == (1, 20, 300, 320)
        assert probe.execute(0, add_x3_x1_x2, 1, 2) == (1, 2, 0, 2)


def test_each_vcpu_does_so_on_its_own_cpu(engine: Choice) -> None:
    with boot(engine.build, guest(3)) as probe:
        for index in (1, 2):
            probe.start_vcpu(index, context=100 + index)
        assert [probe.context(index) for index in (1, 2)] == [101, 102]
        assert [probe.read_register(index, MPIDR_EL1) & 0xFF for index in range(3)] == [0, 1, 2]
        for index in range(3):
            probe.write_register(index, TPIDR_EL0, WORD + index)
        assert [probe.read_register(index, TPIDR_EL0) for index in range(3)] == [WORD, WORD + 1, WORD + 2]
        assert [probe.call(index, PvTime.ST)[0] for index in range(3)] == [
            STOLEN_TIME.base + 64 * index for index in range(3)
        ]


def test_it_spins_as_often_as_it_is_told(engine: Choice) -> None:
    with boot(engine.build, guest()) as probe:
        before = probe.read_register(0, CNTVCT_EL0)
        probe.spin(0, 0)
        probe.spin(0, 100_000)
        assert probe.read_register(0, CNTVCT_EL0) > before


def test_a_vcpu_is_switched_off_and_on_again(engine: Choice) -> None:
    with boot(engine.build, guest(2)) as probe:
        for context in (5, 6):
            probe.start_vcpu(1, context=context)
            assert probe.context(1) == context
            probe.rest(1)
            with pytest.raises(ProbeError, match="vCPU 1 cannot be switched on: PSCI answers -4"):
                probe.start_vcpu(1)
            probe.stop_vcpu(1)
            assert probe.call(0, Psci.AFFINITY_INFO_64, 1)[0] == Affinity.OFF


def test_a_vcpu_that_rests_is_asleep_until_it_is_told_something(engine: Choice) -> None:
    with boot(engine.build, guest(2)) as probe:
        probe.start_vcpu(1)
        host = host_of(probe.engine)
        host.share_one_cpu()
        for value in range(1, 4):
            probe.store(0, MEMORY, value)
            probe.rest(1)
            # Of a CPU that nobody else wants KVM leaves the vCPU in the guest while it waits.
            while not host.asleep(1):
                assert probe.engine.wait(0.001) is None
            probe.rest(0)
            assert [probe.load(index, MEMORY) for index in (1, 0)] == [value, value]
        probe.rest(1)
        probe.stop_vcpu(1)
        probe.start_vcpu(1)
        assert probe.load(1, MEMORY) == 3


def test_a_second_kernel_takes_over_the_same_memory(engine: Choice) -> None:
    with boot(engine.build, guest(2)) as first:
        first.store(0, MEMORY, WORD)
        first.start_vcpu(1)
        first.stop_vcpu(1)
        second = first.take_over(RAM_BASE + (32 << 20), argument=0xC0FFEE)
        assert second.context(0) == 0xC0FFEE
        assert second.load(0, MEMORY) == WORD
        second.start_vcpu(1, context=7)
        assert second.load(1, MEMORY) == WORD
        assert second.differences(0, first.base, CODE, 0), "the first kernel is gone"
        second.stop_vcpu(1)
        # And back: what the third one finds where the first one was is no command for it.
        third = second.take_over(first.base, argument=3)
        third.start_vcpu(1, context=8)
        assert [third.context(index) for index in (0, 1)] == [3, 8]


def test_a_second_kernel_must_be_on_a_page_of_its_own(engine: Choice) -> None:
    with boot(engine.build, guest()) as probe, pytest.raises(ValueError, match="not a multiple of 0x1000"):
        probe.take_over(MEMORY + 8)


def test_a_reset_boots_it_anew_in_clear_memory(engine: Choice) -> None:
    with boot(engine.build, guest(2)) as probe:
        probe.start_vcpu(1)
        probe.rest(1)
        probe.store(0, MEMORY, WORD)
        first = probe.reset(1)
        assert first.load(0, MEMORY) == 0
        assert first.call(0, Psci.AFFINITY_INFO_64, 1)[0] == Affinity.OFF
        first.start_vcpu(1)
        assert first.load(1, MEMORY) == 0


def test_it_powers_off_and_then_answers_no_more(engine: Choice) -> None:
    with boot(engine.build, guest()) as probe:
        probe.power_off()
        assert probe.engine.wait(DEADLINE) is Outcome.POWER_OFF
        with pytest.raises(ProbeError, match=r"vCPU 0: spin 0x1: the guest has ended \(power-off\)"):
            probe.spin(0, 1)


def test_a_vcpu_that_does_not_answer_is_given_up(engine: Choice) -> None:
    with boot(engine.build, guest(2)) as probe:
        impatient = Probe(probe.machine, probe.engine, timeout_s=0.01)
        with pytest.raises(ProbeError, match=r"vCPU 1: load 0x0 0x8: no answer within 0\.01 s"):
            impatient.load(1, 0)


def test_a_probe_that_is_found_running_is_told_things_too(engine: Choice) -> None:
    with boot(engine.build, guest()) as probe:
        probe.rest(0)
        again = Probe(probe.machine, probe.engine)
        assert again.call(0, Psci.VERSION)[0] == VERSION_1_1
        assert probe.call(0, Psci.VERSION)[0] == VERSION_1_1
