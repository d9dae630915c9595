# SPDX-License-Identifier: GPL-2.0-or-later
"""GICD, the distributor with affinity routing: the shared interrupts alone (IHI 0069 section 12.9)."""

from __future__ import annotations

from typing import Final

from pvtime.abi.gicv2 import SPI_BASE, DistributorIdr, Gicd
from pvtime.abi.gicv3 import GICD_IROUTER, GICD_PIDR2, PIDR2_GICV3, GicdCtlr3, GicdTyper3
from pvtime.machine.gicv3.registers import WORD, read_bits, read_bytes, write_bits, write_bytes
from pvtime.machine.gicv3.state import GICD_CTLR_WRITABLE, GicV3Internals
from pvtime.machine.layout import GIC_DISTRIBUTOR
from pvtime.machine.psci import MPIDR_AFFINITY

__all__ = ["IIDR", "AffinityDistributor"]

IIDR: Final = DistributorIdr.of(product=0x4B, revision=2, implementer=0x43B)
"""As KVM's GICv3 identifies itself (arch/arm64/kvm/vgic/vgic-mmio-v3.c)."""

_CTLR: Final = GicdCtlr3.of(ds=1, are=1)
_ID_BITS: Final = 10
"""Bits of an INTID without LPIs, as KVM's have."""


class AffinityDistributor:
    """The registers. Words at their addresses, bytes and double words where the specification allows them;
    else RAZ/WI, as the registers of SGIs and PPIs are.
    """

    region = GIC_DISTRIBUTOR

    def __init__(self, state: GicV3Internals) -> None:
        self._state = state

    def read(self, offset: int, size: int) -> int:
        """Return a register."""
        state = self._state
        if Gicd.IPRIORITYR <= offset < Gicd.IPRIORITYR + state.count:
            return read_bytes(state.priorities, offset - Gicd.IPRIORITYR, size) if size in (1, 4) else 0
        if GICD_IROUTER + 8 * SPI_BASE <= offset < GICD_IROUTER + 8 * state.count:
            intid, shift = self._route(offset)
            return state.routes[intid] >> shift & (1 << 8 * size) - 1 if self._routable(offset, size) else 0
        if size != 4 or offset & 3:
            return 0
        if Gicd.IGROUPR <= offset < Gicd.IPRIORITYR:
            first = (offset & 0x7F) * 8
            return read_bits(state.spi, offset & ~0x7F, first) if SPI_BASE <= first < state.count else 0
        if Gicd.ICFGR <= offset < Gicd.ICFGR + state.count // 4:
            return self._read_config((offset - Gicd.ICFGR) * 4)
        match offset:
            case Gicd.CTLR:
                return _CTLR.with_(enable_group1=int(state.enabled))
            case Gicd.TYPER:
                return GicdTyper3.of(no_1_of_n=1, id_bits=_ID_BITS - 1, lines=state.count // 32 - 1)
            case Gicd.IIDR:
                return IIDR
        return PIDR2_GICV3 if offset == GICD_PIDR2 else 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Set a register."""
        state = self._state
        if Gicd.IPRIORITYR <= offset < Gicd.IPRIORITYR + state.count:
            intid = offset - Gicd.IPRIORITYR
            if size not in (1, 4) or intid < SPI_BASE:
                return
            write_bytes(state.priorities, intid, size, value)
        elif GICD_IROUTER + 8 * SPI_BASE <= offset < GICD_IROUTER + 8 * state.count:
            if not self._routable(offset, size):
                return
            intid, shift = self._route(offset)
            mask = (1 << 8 * size) - 1 << shift
            route = state.routes[intid] & ~mask | value << shift & mask
            state.set_route(intid, route & MPIDR_AFFINITY)
        elif size != 4 or offset & 3:
            return
        elif Gicd.IGROUPR <= offset < Gicd.IPRIORITYR:
            first = (offset & 0x7F) * 8
            if not SPI_BASE <= first < state.count:
                return
            write_bits(state.spi, offset & ~0x7F, first, value & WORD)
        elif Gicd.ICFGR <= offset < Gicd.ICFGR + state.count // 4:
            self._write_config((offset - Gicd.ICFGR) * 4, value)
        elif offset == Gicd.CTLR:
            state.enabled = bool(value & GICD_CTLR_WRITABLE)
        else:
            return
        state.refresh_all()

    @staticmethod
    def _routable(offset: int, size: int) -> bool:
        return size in (4, 8) and offset % size == 0

    @staticmethod
    def _route(offset: int) -> tuple[int, int]:
        """Return the INTID of a GICD_IROUTER, and the bit at which the access begins."""
        return (offset - GICD_IROUTER) // 8, offset % 8 * 8

    def _read_config(self, first: int) -> int:
        """Return the 16 two-bit fields from INTID ``first`` on."""
        return sum((self._state.spi.edge >> first + field & 1) << 2 * field + 1 for field in range(16))

    def _write_config(self, first: int, value: int) -> None:
        if first >= SPI_BASE:
            spi = self._state.spi
            edge = sum((value >> 2 * field + 1 & 1) << first + field for field in range(16))
            spi.edge = spi.edge & ~(0xFFFF << first) | edge
