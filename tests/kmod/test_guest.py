# SPDX-License-Identifier: GPL-2.0-or-later
"""Approach 3, x86's way, in a kernel's KVM: the guest registers an address, and the kernel writes there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from framework.engines import Choice
from framework.wait import wait_until
from pvtime.abi.psci import Psci
from pvtime.abi.registration import KvmStealTime, RegisterCall, RegisterResult
from pvtime.machine.layout import CONSOLE, RAM_BASE, STOLEN_TIME
from pvtime.probe.probe import Probe
from pvtime.scenario.env import ScenarioEnv, await_loads, await_stolen
from pvtime.scenario.guest_side import GuestSide
from pvtime.steal.placement import PlacementName

MEMORY = RAM_BASE + (16 << 20)
VERSION = KvmStealTime.version.offset
PREEMPTED = KvmStealTime.preempted.offset
GUEST = GuestSide(PlacementName.GUEST, MEMORY)


@pytest.fixture
def probe(engine: Choice) -> Iterator[Probe]:
    """Return a guest whose two vCPUs share a CPU of the host."""
    with ScenarioEnv(engine.build_with, PlacementName.GUEST).boot() as probe:
        yield probe


def read(probe: Probe, offset: int, size: int, vcpu: int = 0) -> int:
    """Return a field of a vCPU's structure as the host's memory has it."""
    return int.from_bytes(probe.machine.memory.read(GUEST.area_of(vcpu) + offset, size), "little")


def test_the_structure_has_the_truth_and_an_even_version(probe: Probe) -> None:
    for index in range(2):
        GUEST.enable(probe, index)
    await_stolen(probe, 0, 1)
    probe.engine.pause()
    for index, sample in enumerate(probe.engine.sample()):
        assert sample.enabled
        assert sample.starts == 1
        assert sample.structure_ns == sample.truth_ns == read(probe, 0, 8, index) > 0
        assert read(probe, VERSION, 4, index) % 2 == 0
        assert read(probe, VERSION, 4, index) > 0
    probe.engine.resume()


def test_a_vcpu_that_is_kept_from_running_is_said_to_be_preempted(probe: Probe) -> None:
    GUEST.enable(probe, 0)
    for seen in (1, 0, 1):
        wait_until(lambda seen=seen: read(probe, PREEMPTED, 1) == seen, message=f"preempted is never {seen}")  # type: ignore[misc]


def test_disabled_the_memory_is_left_alone(probe: Probe) -> None:
    GUEST.enable(probe, 0)
    await_stolen(probe, 0)
    assert GUEST.disable(probe, 0) == RegisterResult.SUCCESS
    probe.fill(0, MEMORY, 64, 0x5A5A_5A5A_5A5A_5A5A)
    after = await_loads(probe, 0, 20)[0]
    assert (after.enabled, after.structure_ns) == (False, None)
    assert probe.differences(0, MEMORY, 64, 0x5A5A_5A5A_5A5A_5A5A) == []


@pytest.mark.parametrize(
    "address",
    [MEMORY + 32, MEMORY | 2, CONSOLE.base, STOLEN_TIME.base, 0, (1 << 64) - 64],
    ids=["misaligned", "reserved bit", "a device", "where the VMM's would be", "nothing", "the end"],
)
def test_an_address_that_cannot_hold_a_structure_is_refused(address: int, probe: Probe) -> None:
    assert GUEST.set(probe, 0, address | 1) == RegisterResult.INVALID_PARAMETER
    assert GUEST.registered(probe, 0) == 0


def test_one_address_a_vcpu_and_one_vcpu_an_address(probe: Probe) -> None:
    GUEST.enable(probe, 0)
    assert GUEST.set(probe, 0, MEMORY + 0x1001) == RegisterResult.IN_USE
    assert GUEST.set(probe, 1, MEMORY | 1) == RegisterResult.INVALID_PARAMETER
    assert GUEST.registered(probe, 0) == MEMORY | 1


def test_the_calls_are_offered_and_den0057as_are_not(probe: Probe) -> None:
    for call in RegisterCall:
        assert probe.call(0, RegisterCall.FEATURES, call)[0] == 0
    assert probe.call(0, RegisterCall.FEATURES, Psci.VERSION)[0] == (1 << 64) - 1
    assert probe.call(0, 0xC500_0021)[0] == (1 << 64) - 1
    assert probe.call(0, 0xC500_0020, 0xC500_0021)[0] == (1 << 64) - 1


def test_a_reset_vcpu_has_no_structure(probe: Probe) -> None:
    GUEST.enable(probe, 1)
    await_stolen(probe, 1)
    probe.stop_vcpu(1)
    probe.start_vcpu(1)
    probe.fill(0, GUEST.area_of(1), 64, 0x5A5A_5A5A_5A5A_5A5A)
    after = await_loads(probe, 1, 20)[1]
    assert (after.enabled, after.structure_ns) == (False, None)
    assert probe.differences(0, GUEST.area_of(1), 64, 0x5A5A_5A5A_5A5A_5A5A) == []
