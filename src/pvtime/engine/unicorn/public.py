# SPDX-License-Identifier: GPL-2.0-or-later
"""The emulated CPU by the library's public interface alone: slower, and at home on every build of it."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from typing import Final

from unicorn import arm64_const as a64
from unicorn import unicorn_const as uc_const

from pvtime.abi.arm64 import Esr, ExceptionClass, Pstate, SysReg, Vector
from pvtime.engine.unicorn.core import INSTRUCTION, Core, Number, Supervisor
from pvtime.engine.unicorn.internals import ExceptionState
from pvtime.engine.unicorn.syndrome import exception_offset
from pvtime.machine.device import MmioDevice
from pvtime.machine.memory import GuestMemory

__all__ = ["PublicCore"]

_SPSR_EL1: Final = SysReg(3, 0, 4, 0, 0)
_SCTLR_EL1: Final = SysReg(3, 0, 1, 0, 0)
_SCTLR_SPAN: Final = 1 << 23

_AT_EL1: Final = Pstate.of(daif=0xF, level=1, own_stack=1)

_SLICE_GOAL_NS: Final = 1_000_000
_MIN_COUNT: Final = 2_000
_MAX_COUNT: Final = 2_000_000

_GENERAL: Final = [
    *(getattr(a64, f"UC_ARM64_REG_X{number}") for number in range(31)),
    a64.UC_ARM64_REG_XZR,
]
_ENTRY: Final = [
    a64.UC_ARM64_REG_PC,
    a64.UC_ARM64_REG_PSTATE,
    a64.UC_ARM64_REG_VBAR_EL1,
    a64.UC_ARM64_REG_SP,
    a64.UC_ARM64_REG_SP_EL1,
]


class PublicCore(Core):
    """Exceptions by hand; a slice ends after a number of instructions that is fitted to a millisecond.

    A stop that another thread asks for may execute an instruction twice (``uc_emu_stop`` right after a load
    or store), so a kick only marks the run as ended: the slice's own end comes soon.
    """

    internals = False

    def __init__(
        self,
        model: str,
        memories: Sequence[GuestMemory],
        devices: Sequence[MmioDevice],
        supervisor: Supervisor,
    ) -> None:
        super().__init__(model, memories, devices, supervisor)
        self._irq = False
        self._idle = False
        self._in_exception = False
        self._count = _MIN_COUNT
        self._has_pan = model == "max"
        self._scratch = self._uc.context_save()
        start = ctypes.cast(self._scratch.context, ctypes.c_void_p).value or 0
        self._pending = ExceptionState.from_address(start + exception_offset())

    def pc(self) -> int:
        """See :meth:`Core.pc`."""
        return int(self._uc.reg_read(a64.UC_ARM64_REG_PC))

    def set_irq(self, level: bool) -> None:
        """See :meth:`Core.set_irq`."""
        self._irq = level

    def kick(self) -> None:
        """See :meth:`Core.kick`."""
        self._leaving = True

    def leave(self) -> None:
        """See :meth:`Core.leave`. From a device's callback: at the slice's end."""
        self._leaving = True
        if self._in_exception:
            self._stop(self._handle)

    def registers(self) -> Sequence[int]:
        """See :meth:`Core.registers`."""
        values: Sequence[int] = self._uc.reg_read_batch(_GENERAL)
        return values

    def set_registers(self, values: dict[int, int]) -> None:
        """See :meth:`Core.set_registers`."""
        self._uc.reg_write_batch([(_GENERAL[number], value) for number, value in values.items()])

    def _execute(self) -> int:
        status: int = uc_const.UC_ERR_OK
        self._idle = False
        while status == uc_const.UC_ERR_OK and not (self._leaving or self._idle):
            self._take_interrupt()
            began = time.monotonic_ns()
            status = self._resume(self._count)
            took = time.monotonic_ns() - began
            self._count = _fit(self._count, took)
        return status

    def _take_interrupt(self) -> None:
        if self._irq and not Pstate(self._uc.reg_read(a64.UC_ARM64_REG_PSTATE)).irq_masked:
            self._vector(Vector.IRQ, {})

    def _on_exception(self, uc: int, number: int, data: int) -> None:
        self._in_exception = True
        super()._on_exception(uc, number, data)
        self._in_exception = False

    def _exception(self) -> tuple[Esr, int, int]:
        self.save(self._scratch)
        state = self._pending
        return Esr(state.syndrome), state.address, state.target_el

    def _trapped(self, esr: Esr) -> bool:
        if esr.ec != ExceptionClass.WFX:
            return super()._trapped(esr)
        if not self._irq:
            self._idle = True
            self._stop(self._handle)
        return True

    def _skip_instruction(self) -> None:
        self._uc.reg_write(a64.UC_ARM64_REG_PC, self.pc() + INSTRUCTION)

    def _enter(self, number: int, esr: Esr, address: int) -> None:
        syndrome = {a64.UC_ARM64_REG_ESR_EL1: int(esr)}
        if number in (Number.PREFETCH_ABORT, Number.DATA_ABORT):
            syndrome[a64.UC_ARM64_REG_FAR_EL1] = address
        self._vector(0, syndrome)

    def _vector(self, kind: int, syndrome: dict[int, int]) -> None:
        """Enter EL1 at the vector for ``kind`` (AArch64.TakeException in the Arm ARM)."""
        pc, pstate, vbar, sp, sp_el1 = self._uc.reg_read_batch(_ENTRY)
        old = Pstate(pstate)
        pan = self._has_pan and (old.pan or not self._uc.cpr_read(*_SCTLR_EL1) & _SCTLR_SPAN)
        writes = syndrome | {
            a64.UC_ARM64_REG_ELR_EL1: pc,
            a64.UC_ARM64_REG_PSTATE: int(_AT_EL1.with_(pan=int(pan))),
            a64.UC_ARM64_REG_PC: vbar + _vector_base(old) + kind,
        }
        if not old.own_stack:
            writes |= {a64.UC_ARM64_REG_SP_EL0: sp, a64.UC_ARM64_REG_SP: sp_el1}
        self._uc.reg_write_batch(list(writes.items()))
        # Last, because of all these only a write by CP_REG has the library look at PSTATE again.
        self._uc.cpr_write(*_SPSR_EL1, pstate)


def _vector_base(pstate: Pstate) -> int:
    if pstate.aarch32:
        return Vector.LOWER_32
    if pstate.level == 0:
        return Vector.LOWER_64
    return Vector.CURRENT_SPX if pstate.own_stack else Vector.CURRENT_SP0


def _fit(count: int, took_ns: int) -> int:
    """Return how many instructions make a slice, from how long the last one took."""
    return max(_MIN_COUNT, min(_MAX_COUNT, count * _SLICE_GOAL_NS // max(took_ns, 1), count * 2))
