# SPDX-License-Identifier: GPL-2.0-or-later
"""GICR, the redistributors: each CPU's own interrupts, SGIs and PPIs (IHI 0069 section 12.10).

Power management is as KVM's: GICR_WAKER reads as zero, a redistributor never sleeps. There are no LPIs.
"""

from __future__ import annotations

from typing import Final

from pvtime.abi.gicv2 import SPI_BASE, Gicd
from pvtime.abi.gicv3 import GICD_PIDR2, PIDR2_GICV3, REDISTRIBUTOR_SIZE, SGI_FRAME, Gicr, GicrTyper
from pvtime.machine.gicv3.distributor import IIDR
from pvtime.machine.gicv3.registers import WORD, read_bits, read_bytes, write_bits, write_bytes
from pvtime.machine.gicv3.state import GicV3Cpu, GicV3Internals
from pvtime.machine.layout import Region

__all__ = ["Redistributors"]

PRIVATE_CONFIG: Final = 0xAAAA_AAAA
"""GICR_ICFGR0: SGIs are edge-triggered; GICR_ICFGR1, the PPIs', is 0: level, and fixed, as KVM's are."""


class Redistributors:
    """The redistributors of a contiguous region, those of the CPUs from ``first`` on.

    Any CPU may access each. Words at their addresses, bytes where the specification allows them; else RAZ/WI.
    """

    def __init__(self, state: GicV3Internals, region: Region, first: int) -> None:
        self.region = region
        self._state = state
        self._first = first
        self._last = first + region.size // REDISTRIBUTOR_SIZE - 1

    def read(self, offset: int, size: int) -> int:
        """Return a register."""
        cpu = self._cpu(offset)
        offset %= REDISTRIBUTOR_SIZE
        if offset >= SGI_FRAME:
            return self._read_private(cpu, offset - SGI_FRAME, size)
        if Gicr.TYPER <= offset < Gicr.TYPER + 8 and size in (4, 8) and offset % size == 0:
            return self._typer(cpu) >> offset % 8 * 8 & (1 << 8 * size) - 1
        if size != 4:
            return 0
        return {Gicr.IIDR: int(IIDR), GICD_PIDR2: PIDR2_GICV3}.get(offset, 0)

    def write(self, offset: int, size: int, value: int) -> None:
        """Set a register."""
        cpu = self._cpu(offset)
        offset = offset % REDISTRIBUTOR_SIZE - SGI_FRAME
        if Gicd.IPRIORITYR <= offset < Gicd.IPRIORITYR + SPI_BASE:
            if size in (1, 4):
                write_bytes(cpu.priorities, offset - Gicd.IPRIORITYR, size, value)
        elif size == 4 and Gicd.IGROUPR <= offset < Gicd.IPRIORITYR and not offset & 0x7F:
            write_bits(cpu.bits, offset, 0, value & WORD)
        else:
            return
        self._state.refresh(cpu)

    def _cpu(self, offset: int) -> GicV3Cpu:
        return self._state.cpus[self._first + offset // REDISTRIBUTOR_SIZE]

    def _typer(self, cpu: GicV3Cpu) -> int:
        affinity = cpu.mpidr & 0xFF_FFFF | cpu.mpidr >> 32 << 24
        return GicrTyper.of(affinity=affinity, processor=cpu.index, last=int(cpu.index == self._last))

    @staticmethod
    def _read_private(cpu: GicV3Cpu, offset: int, size: int) -> int:
        if Gicd.IPRIORITYR <= offset < Gicd.IPRIORITYR + SPI_BASE:
            return read_bytes(cpu.priorities, offset - Gicd.IPRIORITYR, size) if size in (1, 4) else 0
        if size != 4:
            return 0
        if Gicd.IGROUPR <= offset < Gicd.IPRIORITYR and not offset & 0x7F:
            return read_bits(cpu.bits, offset, 0)
        return PRIVATE_CONFIG if offset == Gicd.ICFGR else 0
