# SPDX-License-Identifier: GPL-2.0-or-later
"""The device tree: the machine's description for its guest."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import field
from enum import Enum
from typing import Final

import fdt

from pvtime.abi.devicetree import InterruptFlags, InterruptKind, Trigger
from pvtime.errors import UsageError
from pvtime.machine.layout import (
    AGENT,
    CONSOLE,
    GIC_CPU_INTERFACE,
    GIC_DISTRIBUTOR,
    Region,
    redistributors,
)
from pvtime.machine.uart import FIFO_SIZE
from pvtime.records import dataclass

__all__ = [
    "AGENT_SPI",
    "CONSOLE_SPI",
    "DISK_SPI",
    "EMULATED_TIMER_PPIS",
    "KVM_TIMER_PPIS",
    "MAX_BOOTARGS",
    "GicFlavour",
    "TreeConfig",
    "build",
]

CONSOLE_SPI: Final = 0
AGENT_SPI: Final = 1
DISK_SPI: Final = 2
"""Of the first disk; those of the others follow."""

KVM_TIMER_PPIS: Final = (13, 14, 11, 10)
"""Secure physical, non-secure physical, virtual and hypervisor timer, in the order of the binding
(timer/arm,arch_timer.yaml)."""

EMULATED_TIMER_PPIS: Final = KVM_TIMER_PPIS[:2]
"""Without the virtual timer's, a kernel uses the physical one (drivers/clocksource/arm_arch_timer.c)."""

MAX_BOOTARGS: Final = 2047
"""Bytes; an arm64 kernel cuts off what is longer (COMMAND_LINE_SIZE, arch/arm64/include/uapi/asm/setup.h)."""

GIC_PHANDLE: Final = 1
CLOCK_HZ: Final = 1_843_200 * 16
BAUD: Final = 115_200


class GicFlavour(Enum):
    """The interrupt controller, by its ``compatible`` property."""

    GICV2 = "arm,cortex-a15-gic"
    GICV3 = "arm,gic-v3"


@dataclass(frozen=True)
class TreeConfig:
    """The variable parts of a device tree."""

    vcpus: Sequence[int]
    """Each vCPU's MPIDR affinity fields, as PSCI names it."""
    memory: Region
    """RAM, and nothing but RAM."""
    bootargs: str
    initrd: Region | None
    gic: GicFlavour
    timer_ppis: tuple[int, ...]
    """A prefix of :data:`KVM_TIMER_PPIS`: the timers that this machine has."""
    disks: Sequence[Region] = ()
    rng_seed: bytes = field(default_factory=lambda: os.urandom(64))
    """Entropy for the kernel, which otherwise waits for some."""


def _cells(*values: int) -> list[int]:
    """Return each 64-bit value as two cells."""
    return [half for value in values for half in (value >> 32, value & 0xFFFF_FFFF)]


def _node(name: str, properties: Mapping[str, object]) -> fdt.Node:
    """Return a node; None is a property without a value."""
    node = fdt.Node(name)
    for key, value in properties.items():
        node.set_property(key, value)
    return node


def _chosen(config: TreeConfig) -> fdt.Node:
    # A command line may have any bytes; surrogateescape is how Python hands over those that are not UTF-8.
    bootargs = config.bootargs.encode("utf-8", "surrogateescape")
    if len(bootargs) > MAX_BOOTARGS:
        raise UsageError(
            f"the kernel command line has {len(bootargs)} bytes, but kernels take {MAX_BOOTARGS}: shorten it"
        )
    properties: dict[str, object] = {
        "bootargs": bootargs + b"\0",
        "stdout-path": _path(CONSOLE),
        "rng-seed": config.rng_seed,
    }
    if config.initrd:
        properties["linux,initrd-start"] = _cells(config.initrd.base)
        properties["linux,initrd-end"] = _cells(config.initrd.end)
    return _node("chosen", properties)


def _cpus(config: TreeConfig) -> fdt.Node:
    node = _node("cpus", {"#address-cells": 1, "#size-cells": 0})
    for mpidr in config.vcpus:
        properties = {"device_type": "cpu", "compatible": "arm,armv8", "reg": mpidr, "enable-method": "psci"}
        node.append(_node(f"cpu@{mpidr:x}", properties))
    return node


def _memory(ram: Region) -> fdt.Node:
    return _node(f"memory@{ram.base:x}", {"device_type": "memory", "reg": _cells(ram.base, ram.size)})


def _interrupt_controller(config: TreeConfig) -> fdt.Node:
    regions = [GIC_DISTRIBUTOR, GIC_CPU_INTERFACE]
    properties: dict[str, object] = {}
    if config.gic is GicFlavour.GICV3:
        regions[1:] = redistributors(len(config.vcpus))
        properties["#redistributor-regions"] = len(regions) - 1
    return _node(
        f"interrupt-controller@{GIC_DISTRIBUTOR.base:x}",
        {
            "compatible": config.gic.value,
            "interrupt-controller": None,
            "#interrupt-cells": 3,
            "#address-cells": 0,
            "reg": _cells(*(number for region in regions for number in (region.base, region.size))),
            "phandle": GIC_PHANDLE,
            **properties,
        },
    )


def _timer(config: TreeConfig) -> fdt.Node:
    mask = (1 << len(config.vcpus)) - 1 if config.gic is GicFlavour.GICV2 else 0
    flags = InterruptFlags.of(cpus=mask, trigger=Trigger.LEVEL_LOW)
    interrupts = [cell for ppi in config.timer_ppis for cell in (int(InterruptKind.PPI), ppi, int(flags))]
    return _node("timer", {"compatible": "arm,armv8-timer", "interrupts": interrupts, "always-on": None})


def _path(serial: Region) -> str:
    return f"/serial@{serial.base:x}"


def _serial(region: Region, spi: int) -> fdt.Node:
    return _device(
        "serial",
        "ns16550a",
        region,
        spi,
        {
            "clock-frequency": CLOCK_HZ,
            "current-speed": BAUD,
            "reg-shift": 0,
            "fifo-size": FIFO_SIZE,
            # A driver loads fifo-size minus tx-threshold bytes at a time (8250_of.c): all of it.
            "tx-threshold": 0,
        },
    )


def _disk(region: Region, spi: int) -> fdt.Node:
    """Return a virtio device's node (binding virtio/mmio.yaml); the device itself says that it is a disk."""
    return _device("virtio_mmio", "virtio,mmio", region, spi, {"dma-coherent": None})


def _device(
    name: str, compatible: str, region: Region, spi: int, properties: Mapping[str, object]
) -> fdt.Node:
    """Return the node of a device with registers at ``region`` and one SPI."""
    common = {
        "compatible": compatible,
        "reg": _cells(region.base, region.size),
        "interrupts": [int(InterruptKind.SPI), spi, int(Trigger.LEVEL_HIGH)],
    }
    return _node(f"{name}@{region.base:x}", {**common, **properties})


def build(config: TreeConfig) -> bytes:
    """Return the flattened device tree (version 17).

    There is no kaslr-seed: the addresses in a kernel's messages then are those of its symbol table.

    :raises UsageError: the kernel command line is longer than a kernel takes.
    """
    tree = fdt.FDT()
    tree.header.version = 17
    tree.header.last_comp_version = 16
    tree.root = _node(
        "/",
        {
            "compatible": "linux,dummy-virt",
            "model": "pvtime",
            "interrupt-parent": GIC_PHANDLE,
            "#address-cells": 2,
            "#size-cells": 2,
        },
    )
    for node in (
        _chosen(config),
        _node("aliases", {"serial0": _path(CONSOLE), "serial1": _path(AGENT)}),
        _memory(config.memory),
        _cpus(config),
        _node("psci", {"compatible": ["arm,psci-1.0", "arm,psci-0.2"], "method": "hvc"}),
        _interrupt_controller(config),
        _timer(config),
        _serial(CONSOLE, CONSOLE_SPI),
        _serial(AGENT, AGENT_SPI),
        *(_disk(region, DISK_SPI + index) for index, region in enumerate(config.disks)),
    ):
        tree.root.append(node)
    return bytes(tree.to_dtb())
