# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers and layouts against the specifications, written out a second time."""

from __future__ import annotations

import ctypes

import pytest

from pvtime.abi import psci, pvtime, smccc
from pvtime.abi.arm64 import Esr, ExceptionClass, Pstate, SysReg, SysRegAccess
from pvtime.abi.pvtime import StolenTime


def test_the_structure_is_64_bytes_of_which_16_mean_something() -> None:
    # DEN0057A section 4.2.
    places = {name: getattr(StolenTime, name) for name, *_ in StolenTime._fields_}
    assert {name: (place.offset, place.size) for name, place in places.items()} == {
        "revision": (0, 4),
        "attributes": (4, 4),
        "stolen_time": (8, 8),
        "padding": (16, 48),
    }
    assert ctypes.sizeof(StolenTime) == 64 == pvtime.STRUCTURE_ALIGN == pvtime.STRUCTURE_STRIDE


def test_the_count_is_little_endian_behind_revision_and_attributes() -> None:
    filled = StolenTime(revision=1, attributes=2, stolen_time=0x0102030405060708)
    assert bytes(filled) == bytes.fromhex("01000000 02000000 0807060504030201") + bytes(48)


def test_regions_are_whole_pages_of_the_largest_size() -> None:
    assert pvtime.REGION_ALIGN == 64 << 10


@pytest.mark.parametrize(
    ("name", "number"),
    [
        (pvtime.PvTime.FEATURES, 0xC5000020),
        (pvtime.PvTime.ST, 0xC5000021),
        (pvtime.PvTime.LPT, 0xC5000022),
        (smccc.Smccc.VERSION, 0x80000000),
        (smccc.Smccc.ARCH_FEATURES, 0x80000001),
        (smccc.VERSION_1_1, 0x10001),
        (smccc.NOT_SUPPORTED, -1),
        (psci.Psci.VERSION, 0x84000000),
        (psci.Psci.CPU_SUSPEND, 0x84000001),
        (psci.Psci.CPU_SUSPEND_64, 0xC4000001),
        (psci.Psci.CPU_OFF, 0x84000002),
        (psci.Psci.CPU_ON, 0x84000003),
        (psci.Psci.CPU_ON_64, 0xC4000003),
        (psci.Psci.AFFINITY_INFO, 0x84000004),
        (psci.Psci.AFFINITY_INFO_64, 0xC4000004),
        (psci.Psci.MIGRATE_INFO_TYPE, 0x84000006),
        (psci.Psci.SYSTEM_OFF, 0x84000008),
        (psci.Psci.SYSTEM_RESET, 0x84000009),
        (psci.Psci.FEATURES, 0x8400000A),
        (psci.Psci.SYSTEM_RESET2, 0x84000012),
        (psci.Psci.SYSTEM_RESET2_64, 0xC4000012),
        (psci.PsciReturn.INVALID_PARAMETERS, -2),
        (psci.PsciReturn.ALREADY_ON, -4),
        (psci.PsciReturn.INTERNAL_FAILURE, -6),
    ],
)
def test_identifiers_are_those_of_the_specifications(name: int, number: int) -> None:
    assert int(name) == number


def test_a_syndrome_is_taken_apart() -> None:
    esr = Esr(0x9600_0050)  # a store of the kernel's to nowhere, as Linux prints it
    assert (esr.ec, esr.il, esr.fault_status) == (ExceptionClass.DATA_ABORT, 1, 0x10)


def test_a_trapped_instruction_names_its_register() -> None:
    # MRS X5, CNTP_CTL_EL0 (S3_3_C14_C2_1), by the layout of ISS for EC 0x18.
    access = SysRegAccess(3 << 20 | 1 << 17 | 3 << 14 | 14 << 10 | 5 << 5 | 2 << 1 | 1)
    assert access.register == SysReg(3, 3, 14, 2, 1)
    assert (access.rt, access.read) == (5, 1)


def test_the_state_after_reset_is_el1_with_everything_masked() -> None:
    state = Pstate(0x3C5)
    assert (state.level, state.own_stack, state.daif, state.irq_masked, state.aarch32) == (1, 1, 0xF, 1, 0)
