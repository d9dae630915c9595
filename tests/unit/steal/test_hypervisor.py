# SPDX-License-Identifier: GPL-2.0-or-later
"""The placement hypervisor: its device's attributes, and what a save and a restore need of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pvtime.abi.pvtime import REGION_ALIGN
from pvtime.abi.pvtime_device import PvTimeGroup, PvTimePaddr
from pvtime.errors import PvTimeDeviceError, UsageError
from pvtime.machine.layout import CONSOLE, STOLEN_TIME
from pvtime.machine.memory_map import MemoryMap
from pvtime.steal.account import Account
from pvtime.steal.hypervisor import PvTimeDevice

VCPUS = 3
BASE = STOLEN_TIME.base
SIZE_OF_STATE = 16 + 64 * VCPUS


class Hypervisor:
    """Guests that a device maps its memory into; each device gets one of its own."""

    def __init__(self) -> None:
        self.maps: list[MemoryMap] = []

    def device(self, base: int | None = BASE, vcpus: int = VCPUS) -> PvTimeDevice:
        """Make a device, with its base set unless it is None."""
        memories = MemoryMap([CONSOLE])
        self.maps.append(memories)
        device = PvTimeDevice(vcpus, memories)
        if base is not None:
            set_base(device, base)
        return device


def set_base(device: PvTimeDevice, base: int) -> None:
    """Set the attribute as user space does: by eight bytes."""
    device.set_attr(PvTimeGroup.PADDR, PvTimePaddr.ST, base.to_bytes(8, "little"))


@pytest.fixture
def hypervisor() -> Iterator[Hypervisor]:
    """Return what makes devices."""
    hypervisor = Hypervisor()
    yield hypervisor
    for memories in hypervisor.maps:
        memories.close()


def test_setting_the_base_maps_memory_and_each_vcpu_has_a_structure_in_it(hypervisor: Hypervisor) -> None:
    device = hypervisor.device()
    (memory,) = hypervisor.maps[0].memories
    assert (memory.base, memory.size) == (BASE, REGION_ALIGN)
    assert [device.structure(index).ipa for index in range(VCPUS)] == [BASE, BASE + 64, BASE + 128]
    assert device.get_attr(PvTimeGroup.PADDR, PvTimePaddr.ST) == BASE.to_bytes(8, "little")


def test_a_base_is_page_aligned_set_once_and_overlaps_nothing(hypervisor: Hypervisor) -> None:
    with pytest.raises(PvTimeDeviceError, match="0x90a0040 is not aligned"):
        hypervisor.device(BASE + 64)
    with pytest.raises(PvTimeDeviceError, match="is 0x90a0000 already"):
        set_base(hypervisor.device(), BASE + 0x1_0000)
    with pytest.raises(UsageError, match=r"stolen time .* overlaps serial port 0"):
        hypervisor.device(CONSOLE.base)


@pytest.mark.parametrize("group", [PvTimeGroup.PADDR, PvTimeGroup.STATE_SIZE, PvTimeGroup.STATE])
def test_nothing_can_be_had_before_the_base_is_set(hypervisor: Hypervisor, group: PvTimeGroup) -> None:
    device = hypervisor.device(None)
    if group is not PvTimeGroup.STATE_SIZE:
        with pytest.raises(PvTimeDeviceError, match="the base of stolen time is not set"):
            device.get_attr(group, 0)
    with pytest.raises(PvTimeDeviceError):
        device.set_attr(group, 0, bytes(SIZE_OF_STATE))


@pytest.mark.parametrize(("group", "attribute"), [(0, 1), (1, 1), (2, 1), (3, 0), (-1, 0)])
def test_an_attribute_that_is_none_is_refused(hypervisor: Hypervisor, group: int, attribute: int) -> None:
    device = hypervisor.device()
    with pytest.raises(PvTimeDeviceError, match=f"no attribute {attribute} in group {group}"):
        device.get_attr(group, attribute)
    with pytest.raises(PvTimeDeviceError, match=f"no attribute {attribute} in group {group}"):
        device.set_attr(group, attribute, bytes(8))


def test_state_saved_here_and_restored_there_goes_on_counting(hypervisor: Hypervisor) -> None:
    source, target = hypervisor.device(), hypervisor.device()
    account = Account(source.structure(1))
    account.init_stolen_time(1000)
    state, account_state = source.get_attr(PvTimeGroup.STATE, 0), account.state(1500)
    assert len(state) == int.from_bytes(source.get_attr(PvTimeGroup.STATE_SIZE, 0), "little")
    state = source.get_attr(PvTimeGroup.STATE, 0)
    target.set_attr(PvTimeGroup.STATE, 0, state)
    restored = Account(target.structure(1))
    restored.restore(account_state, 40)
    restored.update_stolen_time(47)
    assert restored.structure() == restored.truth(47) == 507


def test_state_of_another_base_size_or_number_of_vcpus_is_refused(hypervisor: Hypervisor) -> None:
    state = hypervisor.device().get_attr(PvTimeGroup.STATE, 0)
    with pytest.raises(PvTimeDeviceError, match=r"saved with its base at 0x90a0000.* restored at 0x90b0000"):
        hypervisor.device(BASE + 0x1_0000).set_attr(PvTimeGroup.STATE, 0, state)
    with pytest.raises(PvTimeDeviceError, match=f"has {SIZE_OF_STATE - 1} bytes"):
        hypervisor.device().set_attr(PvTimeGroup.STATE, 0, state[:-1])
    with pytest.raises(PvTimeDeviceError, match="of 3 vCPUs"):
        hypervisor.device(vcpus=2).set_attr(PvTimeGroup.STATE, 0, state[: 16 + 64 * 2])
    with pytest.raises(PvTimeDeviceError, match="read-only"):
        hypervisor.device().set_attr(PvTimeGroup.STATE_SIZE, 0, bytes(8))
