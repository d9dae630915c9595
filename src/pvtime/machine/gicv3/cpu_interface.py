# SPDX-License-Identifier: GPL-2.0-or-later
"""ICC_*_EL1, the CPU interface in system registers, for group 1 alone (IHI 0069 section 12.2).

The registers of group 0 are there, as they must be: it has no interrupts.
"""

from __future__ import annotations

from typing import Final

from pvtime.abi import gicv3
from pvtime.abi.arm64 import SysReg
from pvtime.abi.gicv2 import SPI_BASE, SPURIOUS
from pvtime.abi.gicv3 import IccCtlr, IccSgi1r, IccSre
from pvtime.machine.gicv3.state import ICC_CTLR_WRITABLE, GicV3Cpu, GicV3Internals
from pvtime.machine.interrupts import PRIORITY_MASK

__all__ = ["IccRegisters"]

_PRIORITY_BITS: Final = IccCtlr.of(priority_bits=4)
"""Five."""
_SRE: Final = IccSre.of(dib=1, dfb=1, sre=1)
"""It cannot be switched off: there is no interface in memory."""

_INTID: Final = 0xFF_FFFF
_NEAR: Final = 16
"""An SGI reaches Aff0 from 0 to 15: there is no Range Selector (ICC_CTLR_EL1.RSS)."""

_AS_ZERO: Final = frozenset({gicv3.ICC_AP0R0_EL1, gicv3.ICC_IGRPEN0_EL1})
_IGNORED: Final = frozenset(
    {
        gicv3.ICC_AP0R0_EL1,
        gicv3.ICC_IGRPEN0_EL1,
        gicv3.ICC_SRE_EL1,
        gicv3.ICC_EOIR0_EL1,
        gicv3.ICC_SGI0R_EL1,
        gicv3.ICC_ASGI1R_EL1,
    }
)


class IccRegisters:
    """The current CPU's registers."""

    def __init__(self, state: GicV3Internals) -> None:
        self._state = state

    def read(self, register: SysReg) -> int | None:
        """Return a register, one of which acknowledges an interrupt; None: it does not exist."""
        cpu = self._state.cpus[self._state.current]
        if register == gicv3.ICC_IAR1_EL1:
            return self._acknowledge(cpu)
        if register in _AS_ZERO:
            return 0
        match register:
            case gicv3.ICC_PMR_EL1:
                return cpu.pmr
            case gicv3.ICC_BPR0_EL1:
                return cpu.bpr0
            case gicv3.ICC_BPR1_EL1:
                return min(cpu.bpr0 + 1, 7) if cpu.ctlr.common_bpr else cpu.bpr1
            case gicv3.ICC_AP1R0_EL1:
                return cpu.apr
            case gicv3.ICC_RPR_EL1:
                return min(cpu.running, 0xFF)
            case gicv3.ICC_HPPIR1_EL1:
                return SPURIOUS if cpu.best < 0 else cpu.best
            case gicv3.ICC_IAR0_EL1 | gicv3.ICC_HPPIR0_EL1:
                return SPURIOUS
            case gicv3.ICC_CTLR_EL1:
                return _PRIORITY_BITS | cpu.ctlr
            case gicv3.ICC_SRE_EL1:
                return _SRE
            case gicv3.ICC_IGRPEN1_EL1:
                return int(cpu.enabled)
        return None

    def write(self, register: SysReg, value: int) -> bool:
        """Set a register, some of which complete or send interrupts; return False if it does not exist."""
        state = self._state
        cpu = state.cpus[state.current]
        if register == gicv3.ICC_EOIR1_EL1:
            self._complete(cpu, value & _INTID)
            return True
        if register == gicv3.ICC_SGI1R_EL1:
            self._send(cpu, IccSgi1r(value))
            return True
        match register:
            case gicv3.ICC_PMR_EL1:
                cpu.pmr = value & PRIORITY_MASK
            case gicv3.ICC_BPR0_EL1:
                cpu.set_binary_points(value, cpu.bpr1)
            case gicv3.ICC_BPR1_EL1:
                if not cpu.ctlr.common_bpr:
                    cpu.set_binary_points(cpu.bpr0, value)
            case gicv3.ICC_AP1R0_EL1:
                cpu.set_active_priorities(value & 0xFFFF_FFFF)
            case gicv3.ICC_CTLR_EL1:
                cpu.ctlr = IccCtlr(value & ICC_CTLR_WRITABLE)
                cpu.set_binary_points(cpu.bpr0, cpu.bpr1)
            case gicv3.ICC_IGRPEN1_EL1:
                cpu.enabled = bool(value & 1)
            case gicv3.ICC_DIR_EL1:
                if cpu.ctlr.eoi_mode:
                    self._deactivate(cpu, value & _INTID)
                return True
            case _:
                return register in _IGNORED
        state.refresh(cpu)
        return True

    def _acknowledge(self, cpu: GicV3Cpu) -> int:
        """Make the best pending interrupt active and return it."""
        if not cpu.line:
            return SPURIOUS
        state = self._state
        intid = cpu.best
        bit = 1 << intid
        cpu.running = cpu.best_running
        cpu.apr |= 1 << (cpu.running >> 3)
        bits = cpu.bits if intid < SPI_BASE else state.spi
        bits.active |= bit
        bits.latched &= ~bit
        state.refresh(cpu)
        return intid

    def _complete(self, cpu: GicV3Cpu, intid: int) -> None:
        """Drop the running priority and, but in EOI mode 1, deactivate the interrupt."""
        if intid >= self._state.count:
            return
        cpu.set_active_priorities(cpu.apr & cpu.apr - 1)
        if not cpu.ctlr.eoi_mode:
            self._deactivate(cpu, intid)
        self._state.refresh(cpu)

    def _deactivate(self, cpu: GicV3Cpu, intid: int) -> None:
        state = self._state
        if intid < SPI_BASE:
            cpu.bits.active &= ~(1 << intid)
            state.refresh(cpu)
        elif intid < state.count:
            state.spi.active &= ~(1 << intid)
            state.refresh_target(intid)

    def _send(self, sender: GicV3Cpu, sgi: IccSgi1r) -> None:
        """Make an SGI pending at its targets (12.2.21)."""
        state = self._state
        bit = 1 << sgi.intid
        if sgi.to_others:
            targets = [cpu for cpu in state.cpus if cpu is not sender]
        elif sgi.range:
            return
        else:
            cluster = sgi.aff3 << 32 | sgi.aff2 << 16 | sgi.aff1 << 8
            mask = sgi.targets
            indices = (state.by_mpidr.get(cluster | aff0) for aff0 in range(_NEAR) if mask >> aff0 & 1)
            targets = [state.cpus[index] for index in indices if index is not None]
        for cpu in targets:
            cpu.bits.latched |= bit
            state.refresh(cpu)
