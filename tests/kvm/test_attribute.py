# SPDX-License-Identifier: GPL-2.0-or-later
"""The vCPU attribute that says where stolen time goes: what KVM refuses, and what we refuse beyond it."""

from __future__ import annotations

import errno
import mmap
from collections.abc import Iterator
from enum import IntEnum

import pytest

from framework.bare import RESULTS, BareVm, bare_vm
from pvtime.abi.kvm_device import PvTimeAttr, VcpuGroup
from pvtime.abi.kvm_types import MemoryFlag
from pvtime.abi.psci import Psci
from pvtime.abi.pvtime import PvTime, StolenTime
from pvtime.abi.smccc import Smccc
from pvtime.engine.kvm.engine import KvmEngine
from pvtime.engine.kvm.ioctl import KvmError
from pvtime.engine.kvm.vm_fd import STOLEN_TIME_UNSET
from pvtime.errors import EngineError
from pvtime.machine.layout import CONSOLE, RAM_BASE, STOLEN_TIME, Region
from pvtime.machine.machine import Machine
from pvtime.machine.memory import GuestMemory
from pvtime.machine.psci import PsciCalls
from pvtime.machine.smccc import hypercall
from pvtime.probe.assembler import Program
from pvtime.probe.guest import boot, guest
from pvtime.steal.account import Account

NONE = (1 << 64) - 1
COUNT = StolenTime.stolen_time.offset


class Unknown(IntEnum):
    """Numbers that no kernel has."""

    ATTRIBUTE = 1


@pytest.fixture
def bare() -> Iterator[BareVm]:
    """A VM with two vCPUs."""
    with bare_vm() as bare:
        yield bare


def refused(bare: BareVm, ipa: int, index: int = 0) -> int:
    """Set the attribute; return the errno that KVM refuses it with."""
    with pytest.raises(KvmError, match="PVTIME_CTRL, attribute IPA") as caught:
        bare.vcpus[index].set_u64(VcpuGroup.PVTIME_CTRL, PvTimeAttr.IPA, ipa)
    return caught.value.errno


def ipa_of(bare: BareVm, index: int = 0) -> int:
    """Get the attribute."""
    return bare.vcpus[index].get_u64(VcpuGroup.PVTIME_CTRL, PvTimeAttr.IPA)


def test_it_is_all_ones_until_it_is_set(bare: BareVm) -> None:
    assert bare.vcpus[0].has_stolen_time
    assert ipa_of(bare) == STOLEN_TIME_UNSET
    bare.vm.set_stolen_time(bare.vcpus[0], STOLEN_TIME.base)
    assert [ipa_of(bare, index) for index in range(2)] == [STOLEN_TIME.base, STOLEN_TIME_UNSET]


@pytest.mark.parametrize("offset", [1, 8, 16, 32, 63])
def test_a_misaligned_address_is_einval(offset: int, bare: BareVm) -> None:
    assert refused(bare, STOLEN_TIME.base + offset) == errno.EINVAL
    assert ipa_of(bare) == STOLEN_TIME_UNSET


@pytest.mark.parametrize(
    "ipa", [0, CONSOLE.base, STOLEN_TIME.base - 64, STOLEN_TIME.end, 1 << 52, NONE & ~63]
)
def test_an_address_in_no_memory_slot_is_einval(ipa: int, bare: BareVm) -> None:
    assert refused(bare, ipa) == errno.EINVAL


def test_an_address_in_a_read_only_slot_is_einval(bare: BareVm) -> None:
    memory = GuestMemory(0x1000_0000, mmap.PAGESIZE, "ROM")
    slot = bare.vm.set_memory(memory.region, memory.address, MemoryFlag.READONLY)
    assert refused(bare, memory.base) == errno.EINVAL
    bare.vm.delete_memory(slot)
    memory.close()


def test_a_second_address_is_eexist_and_the_first_one_stays(bare: BareVm) -> None:
    bare.vm.set_stolen_time(bare.vcpus[0], STOLEN_TIME.base)
    for ipa in (STOLEN_TIME.base, STOLEN_TIME.base + 64):
        assert refused(bare, ipa) == errno.EEXIST
    assert ipa_of(bare) == STOLEN_TIME.base


def test_an_unknown_attribute_is_enxio(bare: BareVm) -> None:
    vcpu = bare.vcpus[0]
    assert not vcpu.has(VcpuGroup.PVTIME_CTRL, Unknown.ATTRIBUTE)
    with pytest.raises(KvmError, match="attribute ATTRIBUTE") as caught:
        vcpu.set_u64(VcpuGroup.PVTIME_CTRL, Unknown.ATTRIBUTE, STOLEN_TIME.base)
    assert caught.value.errno == errno.ENXIO
    with pytest.raises(KvmError) as caught:
        vcpu.get_u64(VcpuGroup.PVTIME_CTRL, Unknown.ATTRIBUTE)
    assert caught.value.errno == errno.ENXIO


def test_kvm_takes_one_address_for_two_vcpus_and_we_do_not(bare: BareVm) -> None:
    bare.vm.set_stolen_time(bare.vcpus[0], STOLEN_TIME.base)
    with pytest.raises(EngineError, match=r"vCPU 1 .* at 0x90a0000: that of vCPU 0 is there"):
        bare.vm.set_stolen_time(bare.vcpus[1], STOLEN_TIME.base)
    assert ipa_of(bare, 1) == STOLEN_TIME_UNSET
    bare.vcpus[1].set_u64(VcpuGroup.PVTIME_CTRL, PvTimeAttr.IPA, STOLEN_TIME.base)
    assert ipa_of(bare, 1) == STOLEN_TIME.base, "KVM checks it by now: the check here may go"


def asking() -> Program:
    """Return a program that asks all there is to ask about PV time, and powers off."""
    program = Program(RAM_BASE).mov(20, RESULTS)
    for slot, (function, argument) in enumerate(QUESTIONS):
        program.mov(0, function).mov(1, argument).hvc().store(0, 20, 8 * slot)
    return program.mov(0, Psci.SYSTEM_OFF).hvc()


QUESTIONS = [
    (Smccc.ARCH_FEATURES, PvTime.FEATURES),
    (PvTime.FEATURES, PvTime.FEATURES),
    (PvTime.FEATURES, PvTime.ST),
    (PvTime.ST, 0),
]


class NoPower:
    """Nobody switches anything here."""

    def is_on(self, index: int) -> bool:
        return index == 0

    def power_on(self, index: int, entry: int, context: int) -> None:
        raise AssertionError

    def power_off(self, index: int) -> None:
        raise AssertionError

    def suspend(self, index: int) -> None:
        raise AssertionError

    def system_off(self) -> None:
        raise AssertionError

    def system_reset(self) -> None:
        raise AssertionError


def test_a_vcpu_without_a_structure_hears_that_there_is_pv_time_but_none_for_it(bare: BareVm) -> None:
    bare.run(asking())
    answers = [bare.result(slot) for slot in range(len(QUESTIONS))]
    assert answers == [0, NONE, NONE, NONE]
    psci = PsciCalls([0, 1], NoPower())
    ours = [hypercall(0, Account(None), 0, psci, [*question, 0, 0]) & NONE for question in QUESTIONS]
    assert ours == answers


def test_an_address_that_is_set_after_the_vcpu_has_run_counts(bare: BareVm) -> None:
    bare.run(asking())
    bare.vm.set_stolen_time(bare.vcpus[0], STOLEN_TIME.base + 64)
    bare.run(asking())
    assert [bare.result(slot) for slot in range(len(QUESTIONS))] == [0, 0, 0, STOLEN_TIME.base + 64]


def test_memory_that_overlaps_is_refused_with_both_names(bare: BareVm) -> None:
    region = Region("a second RAM", RAM_BASE + 0x1000, 0x1000)
    with pytest.raises(EngineError, match=r"a second RAM \(0x40001000.*overlaps RAM \(0x40000000"):
        bare.vm.set_memory(region, bare.memory.address)


def test_a_guest_from_which_it_is_hidden_is_refused_by_every_call() -> None:
    def build(machine: Machine) -> KvmEngine:
        return KvmEngine(machine, {"pv-time": "hidden"})

    with boot(build, guest(2)) as probe:
        probe.start_vcpu(1)
        for life in ("booted", "reset"):
            for function, argument in (
                (Smccc.ARCH_FEATURES, PvTime.FEATURES),
                (PvTime.FEATURES, PvTime.ST),
                (PvTime.ST, 0),
            ):
                assert probe.call(0, function, argument)[0] == NONE, (life, function)
            probe = probe.reset()
