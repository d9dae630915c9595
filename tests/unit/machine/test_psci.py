# SPDX-License-Identifier: GPL-2.0-or-later
"""PSCI against a power control that only takes notes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framework.power import FakePower
from pvtime.abi.psci import VERSION_1_1, Affinity, Psci, PsciReturn, Tos
from pvtime.abi.smccc import Smccc
from pvtime.machine.psci import PsciCalls

UPPER = 1 << 32
SOME = [0, 1, 0x100, 0x1_0000_0000]
"""Affinities of four vCPUs: level 0, 0, 1 and 3."""

u64 = st.integers(0, (1 << 64) - 1)


class Firmware:
    """PSCI of four vCPUs, called by the first."""

    def __init__(self) -> None:
        self.power = FakePower(len(SOME))
        self.calls = PsciCalls(SOME, self.power)

    def __call__(self, function: int, *args: int) -> int:
        """Call with the missing arguments zero."""
        return self.calls.call(0, function, [*args, 0, 0, 0][:3])


@pytest.fixture
def psci() -> Firmware:
    """Return fresh firmware."""
    return Firmware()


def test_the_version_is_1_1(psci: Firmware) -> None:
    assert psci(Psci.VERSION) == VERSION_1_1


@pytest.mark.parametrize("function", [*Psci, Smccc.VERSION])
def test_features_has_what_there_is(function: int, psci: Firmware) -> None:
    assert psci(Psci.FEATURES, function) == PsciReturn.SUCCESS


@pytest.mark.parametrize("function", [0, 0x8400_0005, 0x8400_0007, 0xC400_0008, 0x8400_000E, 0xC500_0020])
def test_features_has_nothing_else(function: int, psci: Firmware) -> None:
    assert psci(Psci.FEATURES, function) == PsciReturn.NOT_SUPPORTED
    assert psci(function) == PsciReturn.NOT_SUPPORTED


def test_a_processor_is_switched_on_by_its_affinity(psci: Firmware) -> None:
    assert psci(Psci.CPU_ON_64, 0x100, 0x4000_0000 + (1 << 40), 99) == PsciReturn.SUCCESS
    assert psci.power.asked == [("on", 2, 0x4000_0000 + (1 << 40), 99)]
    assert psci(Psci.CPU_ON_64, 0x100) == PsciReturn.ALREADY_ON


@pytest.mark.parametrize("target", [2, 0x101, 1 << 24, 1 << 31, 1 << 40, (1 << 64) - 1])
def test_no_processor_that_is_not_there_is_switched_on(target: int, psci: Firmware) -> None:
    assert psci(Psci.CPU_ON_64, target) == PsciReturn.INVALID_PARAMETERS
    assert psci(Psci.AFFINITY_INFO_64, target, 0) == PsciReturn.INVALID_PARAMETERS
    assert psci.power.asked == []


def test_the_32_bit_forms_take_the_lower_halves(psci: Firmware) -> None:
    assert psci(Psci.CPU_ON, UPPER | 1, UPPER | 0x4000_0000, UPPER | 7) == PsciReturn.SUCCESS
    assert psci.power.asked == [("on", 1, 0x4000_0000, 7)]
    assert psci(Psci.AFFINITY_INFO, UPPER | 1, UPPER) == Affinity.ON


@pytest.mark.parametrize(
    ("target", "level", "state"),
    [
        (0, 0, Affinity.ON),
        (1, 0, Affinity.OFF),
        (0x1, 1, Affinity.ON),  # the cluster of vCPU 0
        (0x100, 1, Affinity.OFF),
        (0x100, 2, Affinity.ON),
        (0x1_0000_0000, 0, Affinity.OFF),
        (0x1_0000_0000, 3, Affinity.OFF),
        (0x200, 1, PsciReturn.INVALID_PARAMETERS),
        (0, 4, PsciReturn.INVALID_PARAMETERS),
        (0, (1 << 64) - 1, PsciReturn.INVALID_PARAMETERS),
    ],
)
def test_affinity_info_is_on_where_any_processor_of_the_level_is(
    target: int, level: int, state: int, psci: Firmware
) -> None:
    assert psci(Psci.AFFINITY_INFO_64, target, level) == state


def test_cpu_off_and_suspend_are_about_the_caller(psci: Firmware) -> None:
    psci.calls.call(0, Psci.CPU_SUSPEND, [1 << 30, 0x4000_0000, 0])
    psci.calls.call(0, Psci.CPU_SUSPEND_64, [0, 0, 0])
    psci.calls.call(0, Psci.CPU_OFF, [0, 0, 0])
    assert psci.power.asked == [("suspend", 0), ("suspend", 0), ("off", 0)]


def test_the_system_calls_that_must_not_return_say_failure_if_they_do(psci: Firmware) -> None:
    assert psci(Psci.SYSTEM_OFF) == PsciReturn.INTERNAL_FAILURE
    assert psci(Psci.SYSTEM_RESET) == PsciReturn.INTERNAL_FAILURE
    assert psci.power.asked == [("system off",), ("system reset",)]


@pytest.mark.parametrize("reset_type", [0, 0x8000_0000, 0xFFFF_FFFF])
def test_an_architectural_or_a_vendors_reset_resets(reset_type: int, psci: Firmware) -> None:
    assert psci(Psci.SYSTEM_RESET2, reset_type) == PsciReturn.INTERNAL_FAILURE
    assert psci(Psci.SYSTEM_RESET2_64, reset_type) == PsciReturn.INTERNAL_FAILURE
    assert psci.power.asked == [("system reset",)] * 2


@pytest.mark.parametrize("reset_type", [1, 0x7FFF_FFFF])
def test_a_reserved_reset_does_not(reset_type: int, psci: Firmware) -> None:
    assert psci(Psci.SYSTEM_RESET2, reset_type) == PsciReturn.INVALID_PARAMETERS
    # KVM looks at 32 bits of the type in the 64-bit form too: this one once reset the machine here.
    assert psci(Psci.SYSTEM_RESET2_64, reset_type | 0xC3CE_620A << 32) == PsciReturn.INVALID_PARAMETERS
    assert psci.power.asked == []


def test_there_is_no_trusted_os_to_migrate(psci: Firmware) -> None:
    assert psci(Psci.MIGRATE_INFO_TYPE) == Tos.MP_OR_NONE


@given(function=st.one_of(st.sampled_from(Psci), u64), args=st.tuples(u64, u64, u64))
def test_any_call_is_answered_and_names_only_processors_that_are_there(
    function: int, args: tuple[int, int, int]
) -> None:
    psci = Firmware()
    psci(function, *args)
    assert all(asked[1] in range(len(SOME)) for asked in psci.power.asked if len(asked) > 1)
