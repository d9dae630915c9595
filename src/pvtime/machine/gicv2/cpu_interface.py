# SPDX-License-Identifier: GPL-2.0-or-later
"""GICC, the CPU interface: acknowledgement and completion of interrupts (IHI 0048B section 4.4)."""

from __future__ import annotations

from typing import Final

from pvtime.abi.gicv2 import NON_SECURE_PENDING, SGIS, SPI_BASE, SPURIOUS, CpuIdr, Gicc, GiccCtlr, GiccIar
from pvtime.machine.gicv2.state import GICC_CTLR_WRITABLE, GicCpu, GicState
from pvtime.machine.interrupts import PRIORITY_MASK
from pvtime.machine.layout import GIC_CPU_INTERFACE

__all__ = ["CpuInterface"]

IIDR: Final = CpuIdr.of(product=0x4B, architecture=2, implementer=0x43B)
"""As KVM's GICv2 identifies itself (arch/arm64/kvm/vgic/vgic-mmio-v2.c)."""

# The hot path compares with plain ints: looking a member up in its enum costs as much as the comparison.
_IAR: Final = int(Gicc.IAR)
_EOIR: Final = int(Gicc.EOIR)


class CpuInterface:
    """The current CPU's registers: words at their addresses; anything else is RAZ/WI."""

    region = GIC_CPU_INTERFACE

    def __init__(self, state: GicState) -> None:
        self._state = state

    def read(self, offset: int, size: int) -> int:
        """Return a register; one of them acknowledges an interrupt."""
        if size != 4:
            return 0
        cpu = self._state.cpus[self._state.current]
        if offset == _IAR:
            return self._acknowledge(cpu, 0)
        match offset:
            case Gicc.CTLR:
                return cpu.ctlr
            case Gicc.PMR:
                return cpu.pmr
            case Gicc.BPR:
                return cpu.bpr
            case Gicc.ABPR:
                return cpu.abpr
            case Gicc.RPR:
                return min(cpu.running, 0xFF)
            case Gicc.AIAR:
                return self._acknowledge(cpu, 1)
            case Gicc.HPPIR:
                return self._highest(cpu, 0)
            case Gicc.AHPPIR:
                return self._highest(cpu, 1)
            case Gicc.APR0:
                return cpu.apr
            case Gicc.IIDR:
                return IIDR
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Set a register; some of them complete an interrupt."""
        if size != 4:
            return
        state = self._state
        cpu = state.cpus[state.current]
        if offset == _EOIR:
            self._complete(cpu, value & 0x3FF)
            return
        match offset:
            case Gicc.AEOIR:
                self._complete(cpu, value & 0x3FF)
                return
            case Gicc.DIR:
                if cpu.ctlr.eoi_mode:
                    self._deactivate(cpu, GiccIar(value).intid)
                return
            case Gicc.CTLR:
                cpu.ctlr = GiccCtlr(value & GICC_CTLR_WRITABLE)
                cpu.set_binary_points(cpu.bpr, cpu.abpr)
                state.set_gates()
            case Gicc.PMR:
                cpu.pmr = value & PRIORITY_MASK
            case Gicc.BPR:
                cpu.set_binary_points(value, cpu.abpr)
            case Gicc.ABPR:
                cpu.set_binary_points(cpu.bpr, value)
            case Gicc.APR0:
                cpu.set_active_priorities(value & 0xFFFF_FFFF)
        state.refresh(cpu)

    @staticmethod
    def _elsewhere(cpu: GicCpu, group: int) -> int | None:
        """Return what a register of ``group`` says where the best interrupt is of the other (3.2.5)."""
        if cpu.best_group == group or (cpu.best_group == 1 and cpu.ctlr.ack_control):
            return None
        return NON_SECURE_PENDING if cpu.best_group else SPURIOUS

    def _highest(self, cpu: GicCpu, group: int) -> int:
        """Return the best pending interrupt, whatever the running priority and the mask."""
        if cpu.best < 0:
            return SPURIOUS
        other = self._elsewhere(cpu, group)
        if other is not None:
            return other
        source = cpu.sources[cpu.best] if cpu.best < SGIS else 1
        return GiccIar.of(cpu=(source & -source).bit_length() - 1, intid=cpu.best)

    def _acknowledge(self, cpu: GicCpu, group: int) -> int:
        """Make the best pending interrupt active and return it."""
        if not cpu.line:
            return SPURIOUS
        if cpu.best_group != group:
            other = self._elsewhere(cpu, group)
            if other is not None:
                return other
        state = self._state
        intid = answer = cpu.best
        bit = 1 << intid
        cpu.running = cpu.best_running
        cpu.apr |= 1 << (cpu.running >> 3)
        if intid >= SPI_BASE:
            state.spi.active |= bit
            state.spi.latched &= ~bit
            state.refresh_all()
            return answer
        cpu.bits.active |= bit
        if intid < SGIS:
            sources = cpu.sources[intid]
            cpu.sources[intid] = sources & sources - 1
            answer |= (sources & -sources).bit_length() - 1 << 10
        if intid >= SGIS or not cpu.sources[intid]:
            cpu.bits.latched &= ~bit
        state.refresh(cpu)
        return answer

    def _complete(self, cpu: GicCpu, intid: int) -> None:
        """Drop the running priority and, but in EOI mode 1, deactivate the interrupt."""
        if intid >= self._state.count:
            return
        cpu.set_active_priorities(cpu.apr & cpu.apr - 1)
        if cpu.ctlr.eoi_mode:
            self._state.refresh(cpu)
        else:
            self._deactivate(cpu, intid)

    def _deactivate(self, cpu: GicCpu, intid: int) -> None:
        state = self._state
        if intid < SPI_BASE:
            cpu.bits.active &= ~(1 << intid)
            state.refresh(cpu)
        elif intid < state.count:
            state.spi.active &= ~(1 << intid)
            state.refresh_all()
