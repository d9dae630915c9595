# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk on either engine: a guest's accesses reach its registers, and its interrupt the controller."""

from __future__ import annotations

import contextlib
import tempfile

import pytest

from framework.engines import Choice
from framework.payload import RESULTS, Payload
from framework.wait import DEADLINE
from pvtime.abi.virtio import BlockHeader, BlockType, Descriptor, DescriptorFlags, MmioReg, RingHead
from pvtime.engine.base import Outcome
from pvtime.machine.devicetree import DISK_SPI
from pvtime.machine.gic import GicVersion
from pvtime.machine.image import KernelImage
from pvtime.machine.layout import DISKS, GIC_DISTRIBUTOR, RAM_BASE
from pvtime.machine.machine import Machine, MachineConfig
from pvtime.machine.virtio.block import Disk

TABLE, DRIVER, DEVICE, HEADER, DATA, STATUS = (RAM_BASE + 0x8000 + 0x1000 * page for page in range(6))

GICD_ICFGR2 = 0xC08
"""Triggers of SPIs 0 to 15."""
GICD_ISPENDR1 = 0x204
"""Pending SPIs 0 to 31, in both versions of the controller."""

SECTOR = bytes(range(256)) * 2


def write(payload: Payload, register: int, value: int) -> None:
    payload.mov(1, DISKS[0].base + register).mov(2, value).store(2, 1, size=4)


def reading_guest() -> Payload:
    """Return a guest that starts the device, makes the request in its memory, and looks at the wire."""
    payload = Payload()
    # Level-sensitive, as the device tree says; KVM's interrupts of devices are of edges at first.
    payload.mov(1, GIC_DISTRIBUTOR.base + GICD_ICFGR2).mov(2, 0).store(2, 1, size=4)
    for register, value in (
        *((MmioReg.STATUS, status) for status in (0, 1, 3)),
        (MmioReg.DRIVER_FEATURES_SEL, 1),
        (MmioReg.DRIVER_FEATURES, 1),
        (MmioReg.STATUS, 11),
        (MmioReg.QUEUE_NUM, 4),
        (MmioReg.QUEUE_DESC_LOW, TABLE),
        (MmioReg.QUEUE_DRIVER_LOW, DRIVER),
        (MmioReg.QUEUE_DEVICE_LOW, DEVICE),
        (MmioReg.QUEUE_READY, 1),
        (MmioReg.STATUS, 15),
        (MmioReg.QUEUE_NOTIFY, 0),
    ):
        write(payload, register, value)
    payload.mov(1, GIC_DISTRIBUTOR.base + GICD_ISPENDR1).load(3, 1, size=4).keep(3, 0)
    write(payload, MmioReg.INTERRUPT_ACK, 1)
    payload.mov(1, GIC_DISTRIBUTOR.base + GICD_ISPENDR1).load(3, 1, size=4).keep(3, 1)
    payload.mov(1, DISKS[0].base).load(3, 1, size=4).keep(3, 2)
    return payload.power_off()


def rings() -> dict[int, bytes]:
    """Return the contents of the guest's memory that make a request: read sector 1."""
    more, writes = DescriptorFlags.of(next=1), DescriptorFlags.of(write=1)
    table = (
        Descriptor(HEADER, 16, more, 1),
        Descriptor(DATA, len(SECTOR), more | writes, 2),
        Descriptor(STATUS, 1, writes, 0),
    )
    return {
        TABLE: b"".join(map(bytes, table)),
        DRIVER: bytes(RingHead(0, 1)) + bytes(8),
        HEADER: bytes(BlockHeader(BlockType.IN, 0, 1)),
        STATUS: b"\xee",
    }


@pytest.mark.parametrize("gic", [GicVersion.AUTO, GicVersion.V3])
def test_a_guest_reads_a_sector_and_gets_an_interrupt(engine: Choice, gic: GicVersion) -> None:
    image = bytearray(0x1_0000)
    for address, data in {RAM_BASE: reading_guest().assemble(), **rings()}.items():
        image[address - RAM_BASE : address - RAM_BASE + len(data)] = data
    config = MachineConfig(1, 64 << 20, KernelImage(bytes(image), 0, 2 << 20, None), gic=gic)
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(tempfile.TemporaryFile(buffering=0))
        file.write(bytes(512) + SECTOR)
        machine = Machine(config, lambda _: None, lambda _: None, [Disk(file, "root")])
        stack.callback(machine.close)
        running = engine.build(machine)
        stack.callback(running.stop)
        running.start()
        assert running.wait(DEADLINE) is Outcome.POWER_OFF
        raised, acknowledged, magic = (machine.memory.load_u64(RESULTS + 8 * slot) for slot in range(3))
        assert magic == int.from_bytes(b"virt", "little")
        assert machine.memory.read(DATA, len(SECTOR)) == SECTOR
        assert machine.memory.read(STATUS, 1) == b"\0"
        assert (raised, acknowledged) == (1 << DISK_SPI, 0)
