# SPDX-License-Identifier: GPL-2.0-or-later
"""The emulated CPU by way of the library's internals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, cast

from unicorn import arm64_const as a64

from pvtime.abi.arm64 import Esr, ExceptionLevel, Pstate
from pvtime.engine.unicorn.core import INSTRUCTION, Core, CoreConfig
from pvtime.engine.unicorn.internals import LAYOUTS, LibraryLayout, find
from pvtime.engine.unicorn.uclib import ExceptionNumber
from pvtime.errors import EngineError

__all__ = ["InternalsCore"]

_R15: Final = 15
"""PC in AArch32 state."""


class InternalsCore(Core):
    """Exceptions and interrupts by the library's own code; a stop takes effect at a block's start.

    :raises EngineError: this build of the library is not one that is known.
    """

    internals = True

    def __init__(self, config: CoreConfig, layouts: Mapping[str, LibraryLayout] = LAYOUTS) -> None:
        super().__init__(config)
        internals = find(self._handle.value or 0, layouts)
        if internals is None:
            raise EngineError("this build of the Unicorn library is not one whose internals are known")
        self._internals = internals

    def pc(self) -> int:
        """See :meth:`Core.pc`."""
        return self._internals.pc.value

    def set_irq(self, level: bool) -> None:
        """See :meth:`Core.set_irq`."""
        self._internals.set_irq(level)

    def kick(self) -> None:
        """See :meth:`Core.kick`."""
        self._stop(self._handle)

    def _interrupted(self) -> bool:
        return False  # the library has looked before it trapped

    def _execute(self) -> int:
        self._internals.limit_tlb()
        return self._resume()

    def _exception(self) -> tuple[Esr, int, int]:
        state = self._internals.exception
        return Esr(state.syndrome), state.address, state.target_el

    def _enter(self, number: int, esr: Esr, address: int) -> None:
        state = self._internals.exception
        state.syndrome, state.address, state.target_el = esr, address, 1
        self._internals.raise_exception(number)

    def registers(self) -> Sequence[int]:
        return cast(Sequence[int], self._internals.registers)

    def set_registers(self, values: dict[int, int]) -> None:
        for number, value in values.items():
            self._internals.registers[number] = value

    def _skip_instruction(self, esr: Esr) -> None:
        if self._internals.execution.aarch64:
            self._internals.pc.value += INSTRUCTION
        else:
            self._internals.registers_32[_R15] += INSTRUCTION if esr.il else INSTRUCTION // 2  # T32

    def _level(self) -> int:
        return Pstate(self._internals.execution.pstate).level

    def _aarch32_pc(self) -> int | None:
        return None if self._internals.execution.aarch64 else self._internals.registers_32[_R15]

    def _leave_aarch32(self) -> None:
        """Enter EL1 by an interrupt that is gone when the guest asks the GIC for it (number 1023)."""
        if self._internals.execution.aarch64:
            return
        if Pstate(self._uc.reg_read(a64.UC_ARM64_REG_PSTATE)).irq_masked:
            raise EngineError("a vCPU runs an AArch32 program with interrupts masked: try again")
        self._internals.exception.target_el = ExceptionLevel.EL1
        self._internals.raise_exception(ExceptionNumber.IRQ)

    def _dispatch(self, number: int) -> None:
        # Nearly all are for the guest itself, and described already.
        if number <= 10 and self._internals.exception.target_el == 1:
            if not self._absent_register(number):
                self._internals.take_exception()
        else:
            super()._dispatch(number)
