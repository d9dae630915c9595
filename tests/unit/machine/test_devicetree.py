# SPDX-License-Identifier: GPL-2.0-or-later
"""The device tree, parsed back, says what the machine is."""

from __future__ import annotations

from dataclasses import replace

import fdt
import pytest

from pvtime.errors import UsageError
from pvtime.machine.devicetree import (
    EMULATED_TIMER_PPIS,
    KVM_TIMER_PPIS,
    MAX_BOOTARGS,
    GicFlavour,
    TreeConfig,
    build,
)
from pvtime.machine.layout import RAM_BASE, STOLEN_TIME, Region, redistributors

CONFIG = TreeConfig(
    vcpus=[0, 1, 0x100],
    memory=Region("RAM", RAM_BASE, 6 << 30),
    bootargs="console=ttyS0",
    initrd=Region("initrd", 0x1_0000_0000, 0x1234),
    gic=GicFlavour.GICV2,
    timer_ppis=EMULATED_TIMER_PPIS,
    rng_seed=b"\1" * 64,
)


def tree(config: TreeConfig = CONFIG) -> fdt.FDT:
    return fdt.parse_dtb(build(config))


def cells(tree: fdt.FDT, path: str, name: str) -> list[int]:
    return list(tree.get_property(name, path).data)


def numbers(tree: fdt.FDT, path: str, name: str) -> list[int]:
    """Return a property of 64-bit numbers."""
    halves = cells(tree, path, name)
    return [high << 32 | low for high, low in zip(halves[::2], halves[1::2], strict=True)]


def test_the_same_machine_gives_the_same_bytes() -> None:
    assert build(CONFIG) == build(replace(CONFIG))


def test_memory_is_ram_and_not_stolen_time() -> None:
    base, size = numbers(tree(), f"/memory@{RAM_BASE:x}", "reg")
    assert (base, size) == (RAM_BASE, 6 << 30)
    assert not Region("memory node", base, size).overlaps(STOLEN_TIME)


def test_chosen_names_command_line_console_and_initrd() -> None:
    chosen = tree()
    assert chosen.get_property("bootargs", "/chosen").value == "console=ttyS0"
    assert chosen.exist_node(chosen.get_property("stdout-path", "/chosen").value)
    assert numbers(chosen, "/chosen", "linux,initrd-start") == [0x1_0000_0000]
    assert numbers(chosen, "/chosen", "linux,initrd-end") == [0x1_0000_1234]
    assert not chosen.exist_property("kaslr-seed", "/chosen")


def test_without_an_initrd_none_is_named() -> None:
    assert not tree(replace(CONFIG, initrd=None)).exist_property("linux,initrd-start", "/chosen")


def test_every_machine_gets_its_own_seed() -> None:
    seeds = [TreeConfig([0], CONFIG.memory, "", None, CONFIG.gic, (13,)).rng_seed for _ in range(2)]
    assert seeds[0] != seeds[1]
    assert len(seeds[0]) == 64


@pytest.mark.parametrize("bootargs", ["", "x" * MAX_BOOTARGS, "name=\N{SNOWMAN}", "raw=\udcff"])
def test_a_command_line_is_carried_byte_for_byte(bootargs: str) -> None:
    assert bootargs.encode("utf-8", "surrogateescape") + b"\0" in build(replace(CONFIG, bootargs=bootargs))


def test_a_command_line_that_a_kernel_would_cut_is_refused() -> None:
    with pytest.raises(UsageError, match="2048 bytes"):
        build(replace(CONFIG, bootargs="x" * (MAX_BOOTARGS + 1)))


def test_cpus_start_by_psci_over_hvc() -> None:
    machine = tree()
    assert [node.name for node in machine.get_node("/cpus").nodes] == ["cpu@0", "cpu@1", "cpu@100"]
    assert cells(machine, "/cpus/cpu@100", "reg") == [0x100]
    assert machine.get_property("enable-method", "/cpus/cpu@1").value == "psci"
    assert machine.get_property("device_type", "/cpus/cpu@1").value == "cpu"
    assert machine.get_property("method", "/psci").value == "hvc"


def test_gicv2_timers_name_the_cpus_that_have_them() -> None:
    assert cells(tree(), "/timer", "interrupts") == [1, 13, 0x708, 1, 14, 0x708]
    assert tree().exist_property("always-on", "/timer")


def test_gicv3_has_a_redistributor_for_each_vcpu() -> None:
    machine = tree(replace(CONFIG, gic=GicFlavour.GICV3, timer_ppis=KVM_TIMER_PPIS))
    controller = "/interrupt-controller@8000000"
    assert machine.get_property("compatible", controller).value == "arm,gic-v3"
    assert numbers(machine, controller, "reg")[2:] == [redistributors(3)[0].base, 3 * 0x2_0000]
    assert cells(machine, "/timer", "interrupts") == [1, 13, 8, 1, 14, 8, 1, 11, 8, 1, 10, 8]


@pytest.mark.parametrize(("alias", "spi"), [("serial0", 0), ("serial1", 1)])
def test_serial_ports_are_16550a(alias: str, spi: int) -> None:
    machine = tree()
    path = machine.get_property(alias, "/aliases").value
    assert machine.get_property("compatible", path).value == "ns16550a"
    assert cells(machine, path, "interrupts") == [0, spi, 4]
    assert cells(machine, path, "tx-threshold")[0] < cells(machine, path, "fifo-size")[0]
