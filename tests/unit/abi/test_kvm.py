# SPDX-License-Identifier: GPL-2.0-or-later
"""KVM's requests and structures have the numbers and sizes that the kernel's headers give them on arm64."""

from __future__ import annotations

import ctypes

import pytest

from pvtime.abi import kvm_reg
from pvtime.abi.gicv3 import IccCtlr
from pvtime.abi.ioctl import IoctlNumber
from pvtime.abi.kvm import KvmIoctl
from pvtime.abi.kvm_device import VgicGroup
from pvtime.abi.kvm_run import CoalescedMmio, CoalescedRing, KvmRun, Mmio, SystemEvent
from pvtime.abi.kvm_types import (
    CoalescedZone,
    CreateDevice,
    DeviceAttr,
    EnableCap,
    GuestDebug,
    IrqLevel,
    IrqNumber,
    IrqType,
    KvmDirtyLog,
    MemoryRegion,
    OneReg,
    RegList,
    StatsDescriptor,
    StatsHeader,
    VcpuEvents,
    VcpuInit,
)
from pvtime.abi.kvm_vgic import cpu_registers, distributor_registers

REQUESTS = {
    KvmIoctl.GET_API_VERSION: 0xAE00,
    KvmIoctl.CREATE_VM: 0xAE01,
    KvmIoctl.CHECK_EXTENSION: 0xAE03,
    KvmIoctl.GET_VCPU_MMAP_SIZE: 0xAE04,
    KvmIoctl.CREATE_VCPU: 0xAE41,
    KvmIoctl.GET_DIRTY_LOG: 0x4010AE42,
    KvmIoctl.SET_USER_MEMORY_REGION: 0x4020AE46,
    KvmIoctl.IRQ_LINE: 0x4008AE61,
    KvmIoctl.REGISTER_COALESCED_MMIO: 0x4010AE67,
    KvmIoctl.ENABLE_CAP: 0x4068AEA3,
    KvmIoctl.CREATE_DEVICE: 0xC00CAEE0,
    KvmIoctl.ARM_PREFERRED_TARGET: 0x8020AEAF,
    KvmIoctl.RUN: 0xAE80,
    KvmIoctl.GET_MP_STATE: 0x8004AE98,
    KvmIoctl.SET_MP_STATE: 0x4004AE99,
    KvmIoctl.SET_GUEST_DEBUG: 0x4208AE9B,
    KvmIoctl.GET_VCPU_EVENTS: 0x8040AE9F,
    KvmIoctl.SET_VCPU_EVENTS: 0x4040AEA0,
    KvmIoctl.GET_ONE_REG: 0x4010AEAB,
    KvmIoctl.SET_ONE_REG: 0x4010AEAC,
    KvmIoctl.ARM_VCPU_INIT: 0x4020AEAE,
    KvmIoctl.GET_REG_LIST: 0xC008AEB0,
    KvmIoctl.GET_STATS_FD: 0xAECE,
    KvmIoctl.SET_DEVICE_ATTR: 0x4018AEE1,
    KvmIoctl.GET_DEVICE_ATTR: 0x4018AEE2,
    KvmIoctl.HAS_DEVICE_ATTR: 0x4018AEE3,
}
"""As a C compiler for arm64 makes them from include/uapi/linux/kvm.h."""

SIZES = {
    CoalescedMmio: 24,
    CoalescedRing: 8,
    CoalescedZone: 16,
    CreateDevice: 12,
    DeviceAttr: 24,
    KvmDirtyLog: 16,
    EnableCap: 104,
    GuestDebug: 520,
    IrqLevel: 8,
    MemoryRegion: 32,
    Mmio: 24,
    OneReg: 16,
    RegList: 8,
    StatsDescriptor: 16,
    StatsHeader: 24,
    SystemEvent: 136,
    VcpuEvents: 64,
    VcpuInit: 32,
}


def test_every_request_has_the_kernels_number() -> None:
    assert {request: int(request) for request in KvmIoctl} == REQUESTS


@pytest.mark.parametrize(
    ("structure", "size"), SIZES.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_structures_have_the_kernels_size(structure: type[ctypes.Structure], size: int) -> None:
    assert ctypes.sizeof(structure) == size


@pytest.mark.parametrize(
    ("field", "offset"),
    [("immediate_exit", 1), ("exit_reason", 8), ("flags", 14), ("detail", 32)],
)
def test_kvm_run_is_laid_out_as_the_kernel_has_it(field: str, offset: int) -> None:
    assert getattr(KvmRun, field).offset == offset


def test_the_exits_details_are_256_bytes_from_offset_32_on() -> None:
    assert ctypes.sizeof(KvmRun) == 32 + 256


def test_a_request_tells_its_argument() -> None:
    request = IoctlNumber(KvmIoctl.CREATE_DEVICE)
    assert (request.direction, request.size, request.type, request.number) == (3, 12, 0xAE, 0xE0)


@pytest.mark.parametrize(
    ("register", "identifier"),
    [
        (kvm_reg.x(0), 0x6030_0000_0010_0000),
        (kvm_reg.x(30), 0x6030_0000_0010_003C),
        (kvm_reg.PC, 0x6030_0000_0010_0040),
        (kvm_reg.PSTATE, 0x6030_0000_0010_0042),
        (kvm_reg.MPIDR_EL1, 0x6030_0000_0013_C005),
        (kvm_reg.sysreg(3, 3, 14, 3, 1), 0x6030_0000_0013_DF19),
    ],
)
def test_register_identifiers_are_those_of_the_kernel(register: int, identifier: int) -> None:
    assert register == identifier


@pytest.mark.parametrize(
    ("register", "name"),
    [
        (0x6030_0000_0013_C000, "MIDR_EL1"),
        (0x6030_0000_0013_C020, "ID_AA64PFR0_EL1"),
        (0x6030_0000_0013_DF1A, "the virtual counter"),
        (0x6030_0000_0013_C201, "S3_0_C4_C0_1"),
        (0x6020_0000_0011_0000, "register 0x6020000000110000"),
    ],
)
def test_a_register_is_called_by_its_name(register: int, name: str) -> None:
    assert kvm_reg.describe(register) == name


def test_a_gicv3_is_saved_with_every_register_that_its_interrupts_have() -> None:
    distributor = list(distributor_registers(64))
    assert len({one.name for one in distributor}) == len(distributor) == 2 + 2 * 32 + 5 + 2 + 8
    of_a_cpu = list(cpu_registers(IccCtlr.of(priority_bits=4)))
    assert len({one.name for one in of_a_cpu}) == len(of_a_cpu) == 5 + 2 + 8 + 7 + 2
    assert len(list(cpu_registers(IccCtlr.of(priority_bits=6)))) == len(of_a_cpu) + 6
    attributes = {one.name: (one.group, one.attr(1)) for one in [*distributor, *of_a_cpu]}
    assert attributes["GICD_ISENABLER1"] == (VgicGroup.DIST_REGS, 0x1_0000_0104)
    assert attributes["GICR_IPRIORITYR7"] == (VgicGroup.REDIST_REGS, 0x1_0001_041C)
    assert attributes["GICD_IROUTER33 high"] == (VgicGroup.DIST_REGS, 0x1_0000_610C)
    assert attributes["GICD line levels 32"] == (VgicGroup.LEVEL_INFO, 0x1_0000_0020)
    assert attributes["ICC_PMR_EL1"] == (VgicGroup.CPU_SYSREGS, 0x1_0000_C230)


@pytest.mark.parametrize("number", [-1, 31])
def test_there_are_31_general_registers(number: int) -> None:
    with pytest.raises(ValueError, match="no X"):
        kvm_reg.x(number)


def test_an_spi_is_named_by_its_intid() -> None:
    assert IrqNumber.of(type=IrqType.SPI, number=32) == 0x0100_0020
