# SPDX-License-Identifier: GPL-2.0-or-later
"""GICD, the distributor: enabling, priorities and targets of interrupts (IHI 0048B section 4.3)."""

from __future__ import annotations

from typing import Final

from pvtime.abi.gicv2 import SPI_BASE, DistributorIdr, Gicd, GicdCtlr, GicdSgir, GicdTyper, SgiFilter
from pvtime.machine.gicv2.state import GicState
from pvtime.machine.interrupts import PRIORITY_MASK, SGI_MASK, Interrupts
from pvtime.machine.layout import GIC_DISTRIBUTOR

__all__ = ["Distributor"]

IIDR: Final = DistributorIdr.of(product=0x4B, revision=2, implementer=0x43B)
"""As KVM's GICv2 identifies itself (arch/arm64/kvm/vgic/vgic-mmio-v2.c)."""

WORD: Final = 0xFFFF_FFFF
PRIVATE_CONFIG: Final = 0xAAAA_AAAA
"""GICD_ICFGR0: SGIs are edge-triggered; GICD_ICFGR1, the PPIs', is 0: level, and fixed, as KVM's are."""


class Distributor:
    """The registers. Words at their addresses, bytes where the specification allows them; else RAZ/WI."""

    region = GIC_DISTRIBUTOR

    def __init__(self, state: GicState) -> None:
        self._state = state

    def read(self, offset: int, size: int) -> int:
        """Return a register."""
        if size == 4 and not offset & 3:
            return self._read_word(offset)
        if size == 1 and self._has_bytes(offset):
            return self._read_byte(offset)
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Set a register."""
        if size == 4 and not offset & 3:
            self._write_word(offset, value & WORD)
        elif size == 1 and self._has_bytes(offset):
            self._write_byte(offset, value & 0xFF)
            self._state.refresh_all()

    @staticmethod
    def _has_bytes(offset: int) -> bool:
        return Gicd.IPRIORITYR <= offset < Gicd.ICFGR or Gicd.CPENDSGIR <= offset < Gicd.SPENDSGIR + 0x10

    def _read_word(self, offset: int) -> int:
        if self._has_bytes(offset):
            return sum(self._read_byte(offset + byte) << 8 * byte for byte in range(4))
        if Gicd.IGROUPR <= offset < Gicd.IPRIORITYR:
            return self._read_bits(offset & ~0x7F, (offset & 0x7F) >> 2)
        if Gicd.ICFGR <= offset < Gicd.ICFGR + 0x100:
            return self._read_config((offset - Gicd.ICFGR) * 4)
        state = self._state
        match offset:
            case Gicd.CTLR:
                return state.ctlr
            case Gicd.TYPER:
                return GicdTyper.of(cpus=len(state.cpus) - 1, lines=state.count // 32 - 1)
            case Gicd.IIDR:
                return IIDR
        return 0

    def _write_word(self, offset: int, value: int) -> None:
        state = self._state
        if offset == Gicd.SGIR:
            self._send_sgi(GicdSgir(value))
            return
        if self._has_bytes(offset):
            for byte in range(4):
                self._write_byte(offset + byte, value >> 8 * byte & 0xFF)
        elif Gicd.IGROUPR <= offset < Gicd.IPRIORITYR:
            self._write_bits(offset & ~0x7F, (offset & 0x7F) >> 2, value)
        elif Gicd.ICFGR <= offset < Gicd.ICFGR + 0x100:
            self._write_config((offset - Gicd.ICFGR) * 4, value)
        elif offset == Gicd.CTLR:
            state.ctlr = GicdCtlr(value & 3)
            state.set_gates()
        state.refresh_all()

    def _bits(self, word: int) -> tuple[Interrupts, int] | None:
        """Return the state that register ``word`` of a one-bit-each array shows, and its first INTID."""
        state = self._state
        if word * 32 >= state.count:
            return None
        return (state.spi if word else state.cpus[state.current].bits), word * 32

    def _read_bits(self, register: int, word: int) -> int:
        found = self._bits(word)
        if not found:
            return 0
        bits, shift = found
        match register:
            case Gicd.IGROUPR:
                value = bits.group
            case Gicd.ISENABLER | Gicd.ICENABLER:
                value = bits.enabled
            case Gicd.ISPENDR | Gicd.ICPENDR:
                value = bits.pending()
            case _:
                value = bits.active
        return value >> shift & WORD

    def _write_bits(self, register: int, word: int, value: int) -> None:
        found = self._bits(word)
        if not found:
            return
        bits, shift = found
        mask = value << shift
        match register:
            case Gicd.IGROUPR:
                bits.group = bits.group & ~(WORD << shift) | mask
                self._state.set_gates()
            case Gicd.ISENABLER:
                bits.enabled |= mask
            case Gicd.ICENABLER:
                bits.enabled &= ~mask
            case Gicd.ISPENDR:
                # An SGI becomes pending by GICD_SGIR or GICD_SPENDSGIR only: it needs a source (4.3.7).
                bits.latched |= mask & ~SGI_MASK
            case Gicd.ICPENDR:
                bits.latched &= ~mask | SGI_MASK
            case Gicd.ISACTIVER:
                bits.active |= mask
            case Gicd.ICACTIVER:
                bits.active &= ~mask

    def _read_config(self, first: int) -> int:
        """Return the 16 two-bit fields from INTID ``first`` on."""
        if first < SPI_BASE:
            return PRIVATE_CONFIG if first == 0 else 0
        return sum((self._state.spi.edge >> first + field & 1) << 2 * field + 1 for field in range(16))

    def _write_config(self, first: int, value: int) -> None:
        spi = self._state.spi
        if SPI_BASE <= first < self._state.count:
            edge = sum((value >> 2 * field + 1 & 1) << first + field for field in range(16))
            spi.edge = spi.edge & ~(0xFFFF << first) | edge

    def _read_byte(self, offset: int) -> int:
        state = self._state
        cpu = state.cpus[state.current]
        if offset >= Gicd.CPENDSGIR:
            return cpu.sources[offset & 0xF]
        intid = offset & 0x3FF
        if intid >= state.count:
            return 0
        if offset >= Gicd.ITARGETSR:
            return 1 << cpu.index if intid < SPI_BASE else state.targets[intid]
        return cpu.priorities[intid] if intid < SPI_BASE else state.priorities[intid]

    def _write_byte(self, offset: int, value: int) -> None:
        state = self._state
        cpu = state.cpus[state.current]
        intid = offset & 0x3FF
        if offset >= Gicd.SPENDSGIR:
            self._set_sources(cpu.index, offset & 0xF, cpu.sources[offset & 0xF] | value & self._everyone())
        elif offset >= Gicd.CPENDSGIR:
            self._set_sources(cpu.index, offset & 0xF, cpu.sources[offset & 0xF] & ~value)
        elif intid >= state.count:
            return
        elif offset < Gicd.ITARGETSR:
            priorities = cpu.priorities if intid < SPI_BASE else state.priorities
            priorities[intid] = value & PRIORITY_MASK
        elif intid >= SPI_BASE:
            self._state.set_targets(intid, value & self._everyone())

    def _everyone(self) -> int:
        return (1 << len(self._state.cpus)) - 1

    def _set_sources(self, index: int, sgi: int, sources: int) -> None:
        cpu = self._state.cpus[index]
        cpu.sources[sgi] = sources
        cpu.bits.latched = cpu.bits.latched & ~(1 << sgi) | bool(sources) << sgi

    def _send_sgi(self, sgir: GicdSgir) -> None:
        """Make an SGI pending at its targets (4.3.15)."""
        sender = self._state.current
        match sgir.filter:
            case SgiFilter.LIST:
                targets = sgir.cpus
            case SgiFilter.OTHERS:
                targets = self._everyone() & ~(1 << sender)
            case SgiFilter.SELF:
                targets = 1 << sender
            case _:
                return
        for cpu in self._state.cpus:
            if targets >> cpu.index & 1:
                self._set_sources(cpu.index, sgir.intid, cpu.sources[sgir.intid] | 1 << sender)
                self._state.refresh(cpu)
