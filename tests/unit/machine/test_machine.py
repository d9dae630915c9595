# SPDX-License-Identifier: GPL-2.0-or-later
"""What is the same for every engine: memory, devices, wires, and what loading does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from pvtime.abi.ns16550 import Ier, Reg
from pvtime.abi.pvtime import LPT_OFFSET, STRUCTURE_STRIDE
from pvtime.errors import UsageError
from pvtime.machine.devicetree import AGENT_SPI, CONSOLE_SPI, GicFlavour
from pvtime.machine.image import KernelImage
from pvtime.machine.layout import MAX_VCPUS, RAM_BASE, STOLEN_TIME
from pvtime.machine.machine import Machine, MachineConfig
from pvtime.machine.timer import MAX_HZ
from pvtime.steal.placement import MAX_PLACEMENT_STATE, PlacementName

CODE = b"\x5f\x20\x03\xd5" * 16
KERNEL = KernelImage(CODE, 0, 2 << 20, None)
PPIS = (13, 14)


def configure(vcpus: int = 2, memory: int = 64 << 20, initrd: bytes = b"initrd") -> MachineConfig:
    """Return a small machine's configuration."""
    return MachineConfig(vcpus, memory, KERNEL, initrd, "console=ttyS0")


@pytest.fixture
def machine() -> Iterator[Machine]:
    """Return a machine whose ports nobody reads."""
    machine = Machine(configure(), lambda _: None, lambda _: None)
    yield machine
    machine.close()


@pytest.mark.parametrize("placement", [PlacementName.USERSPACE, PlacementName.HYPERVISOR])
def test_every_vcpu_of_the_largest_machine_has_a_structure_and_lpt_is_behind_them(
    placement: PlacementName,
) -> None:
    # That of Live Physical Time was a page behind the base, where vCPU 64 has its own.
    config = replace(configure(MAX_VCPUS), placement=placement, lpt=MAX_HZ)
    machine = Machine(config, lambda _: None, lambda _: None)
    try:
        places = [None if structure is None else structure.ipa for structure in machine.structures()]
        ends = [place + STRUCTURE_STRIDE for place in places if place is not None]
        assert len(set(ends)) == MAX_VCPUS
        assert max(ends) <= STOLEN_TIME.base + LPT_OFFSET
        assert len(machine.placement.state() or b"") <= MAX_PLACEMENT_STATE
    finally:
        machine.close()


@pytest.mark.parametrize("vcpus", [-1, 0, 513])
def test_a_machine_has_one_to_512_vcpus(vcpus: int) -> None:
    with pytest.raises(UsageError, match=f"{vcpus} vCPUs: give 1 to 512"):
        Machine(configure(vcpus), lambda _: None, lambda _: None)


def test_an_initrd_that_does_not_fit_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(UsageError, match="do not fit into 64M"):
        Machine(configure(initrd=bytes(70 << 20)), lambda _: None, lambda _: None)


def test_loading_puts_kernel_and_tree_where_the_first_vcpu_finds_them(machine: Machine) -> None:
    entry = machine.load(GicFlavour.GICV2, PPIS)
    assert entry.pc == RAM_BASE
    assert machine.memory.read(entry.pc, len(CODE)) == CODE
    assert machine.memory.read(entry.x0, 4) == b"\xd0\x0d\xfe\xed", "no device tree"


def test_loading_again_leaves_nothing_of_the_last_time(machine: Machine) -> None:
    first = machine.load(GicFlavour.GICV2, PPIS)
    machine.memory.write(RAM_BASE + (40 << 20), b"left over")
    machine.stolen_time.write(STOLEN_TIME.base, b"\xff" * 128)
    machine.console.write(Reg.SCR, 1, 0x5A)
    assert machine.load(GicFlavour.GICV2, PPIS) == first
    assert machine.memory.read(RAM_BASE + (40 << 20), 9) == bytes(9)
    assert machine.stolen_time.read(STOLEN_TIME.base, STOLEN_TIME.size) == bytes(STOLEN_TIME.size)
    assert machine.console.read(Reg.SCR, 1) == 0


def test_wires_of_the_ports_reach_the_engine_once_it_is_connected(machine: Machine) -> None:
    machine.console.write(Reg.IER, 1, Ier.THRI)  # nobody is there yet
    machine.console.write(Reg.IER, 1, 0)
    wires: list[tuple[int, bool]] = []
    machine.connect(lambda spi, level: wires.append((spi, level)))
    machine.console.write(Reg.IER, 1, Ier.THRI)
    machine.agent.write(Reg.IER, 1, Ier.THRI)
    machine.console.write(Reg.IER, 1, 0)
    assert wires == [(CONSOLE_SPI, True), (AGENT_SPI, True), (CONSOLE_SPI, False)]


def test_every_vcpu_has_an_affinity_of_its_own() -> None:
    machine = Machine(configure(8), lambda _: None, lambda _: None)
    assert machine.mpidrs == list(range(8))
    machine.close()


def test_closing_twice_is_harmless(machine: Machine) -> None:
    machine.close()
    machine.close()
