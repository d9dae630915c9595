# SPDX-License-Identifier: GPL-2.0-or-later
"""The emulated CPU by the library's public interface alone: slower, and at home on every build of it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Final

from unicorn import arm64_const as a64
from unicorn import unicorn_const as uc_const

from pvtime.abi.arm64 import Esr, Pstate, SysReg, Vector
from pvtime.engine.unicorn.context_layout import context_layout
from pvtime.engine.unicorn.core import INSTRUCTION, Core, CoreConfig
from pvtime.engine.unicorn.internals import ExceptionState, ExecutionState
from pvtime.engine.unicorn.stop_hook import StopHook
from pvtime.engine.unicorn.uclib import BLOCK_CALLBACK, LIBRARY, ExceptionNumber, add_hook
from pvtime.errors import EngineError

__all__ = ["PublicCore"]

_SPSR_EL1: Final = SysReg(3, 0, 4, 0, 0)
_SCTLR_EL1: Final = SysReg(3, 0, 1, 0, 0)
_SCTLR_SPAN: Final = 1 << 23

_AT_EL1: Final = Pstate.of(daif=0xF, level=1, own_stack=1)

_NOTHING: Final = ctypes.CDLL(None).labs
"""A C function without effect."""

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
    """Exceptions by hand, and interrupts at the start of a run.

    The two simpler ways to end a run are worse. ``uc_emu_stop`` from another thread may come between a load
    or store and the end of its instruction, which is then executed twice. A ``count`` of instructions to run
    hooks each of them: a boot took 5.0 s that way, 2.6 s with a :class:`StopHook`.

    An AArch32 program would need its registers moved at each exception, which nothing public does: its first
    one ends the run.

    :raises EngineError: an unknown build of the library.
    """

    internals = False
    block_limit = 200_000

    def __init__(self, config: CoreConfig) -> None:
        super().__init__(config)
        self._irq = False
        self._pstate = ctypes.c_uint32()
        self._watch: ctypes.c_size_t | None = None
        self._on_masked_block = BLOCK_CALLBACK(self._look)
        self._stop_hook = StopHook(self._handle)
        # A single hook is called without a look at the list, to which one that watches may be added later.
        self._second_hook = add_hook(self._handle, uc_const.UC_HOOK_BLOCK, _NOTHING)
        self._has_pan = self.model == "max"
        self._scratch = self._uc.context_save()
        start = ctypes.cast(self._scratch.context, ctypes.c_void_p).value or 0
        layout = context_layout()
        self._pending = ExceptionState.from_address(start + layout.exception)
        self._execution = ExecutionState.from_address(start + layout.execution)

    def pc(self) -> int:
        """See :meth:`Core.pc`."""
        return int(self._uc.reg_read(a64.UC_ARM64_REG_PC))

    def set_irq(self, level: bool) -> None:
        """See :meth:`Core.set_irq`."""
        if level and not self._irq:
            self.kick()
        self._irq = level

    def kick(self) -> None:
        """See :meth:`Core.kick`."""
        self._stop_hook.stop()

    def registers(self) -> Sequence[int]:
        """See :meth:`Core.registers`."""
        values: Sequence[int] = self._uc.reg_read_batch(_GENERAL)
        return values

    def set_registers(self, values: dict[int, int]) -> None:
        """See :meth:`Core.set_registers`."""
        self._uc.reg_write_batch([(_GENERAL[number], value) for number, value in values.items()])

    def _execute(self) -> int:
        self._deliver()
        status = self._resume()
        self._stop_hook.clear()
        if self.code_cache.has_many:
            self._forget_blocks()
        return status

    def _forget_blocks(self) -> None:
        """Have the library free what it keeps of each block, for each hook on blocks: where it begins.

        It frees that with the hook: 0.1 s of CPU time for :attr:`block_limit` blocks. A guest that does
        nothing but make blocks grew the process by 900 MiB in a minute.
        """
        self.code_cache.begin_count()  # first, or deleting looks for each block: 3 s
        self._unwatch()
        self._stop_hook.renew()
        LIBRARY.uc_hook_del(self._handle, self._second_hook)
        self._second_hook = add_hook(self._handle, uc_const.UC_HOOK_BLOCK, _NOTHING)

    def spins(self) -> bool:
        """Never say so.

        A kick that comes late ends the next run before it has begun: with the short slices of two vCPUs that
        spin, neither came on, and a boot never brought up its second CPU.
        """
        return False

    def _dispatch(self, number: int) -> None:
        super()._dispatch(number)
        if self._stop_hook.pending:
            # A guest whose exception vector faults goes round here and never starts a block.
            self._stop(self._handle)

    def _deliver(self) -> None:
        """Take the interrupt that waits; where the guest masks it, watch for the end of that."""
        if self._irq and self._masked():
            if self._watch is None:
                self._watch = add_hook(self._handle, uc_const.UC_HOOK_BLOCK, self._on_masked_block)
            return
        self._unwatch()
        if self._irq:
            self._refuse_aarch32()
            self._vector(Vector.IRQ, {})

    def _unwatch(self) -> None:
        if self._watch is not None:
            LIBRARY.uc_hook_del(self._handle, self._watch)
            self._watch = None

    def _masked(self) -> bool:
        LIBRARY.uc_reg_read(self._handle, a64.UC_ARM64_REG_PSTATE, ctypes.byref(self._pstate))
        return bool(Pstate(self._pstate.value).irq_masked)

    def _look(self, _uc: int, _address: int, _size: int, _data: int) -> None:
        """On each block while an interrupt waits (4 us): most are masked for some ten blocks."""
        if not self._irq or not self._masked():
            self._stop(self._handle)

    def _exception(self) -> tuple[Esr, int, int]:
        self._refuse_aarch32()
        state = self._pending
        return Esr(state.syndrome), state.address, state.target_el

    def _interrupted(self) -> bool:
        return self._irq

    def _level(self) -> int:
        return Pstate(self._uc.reg_read(a64.UC_ARM64_REG_PSTATE)).level

    def _refuse_aarch32(self) -> None:
        self._uc.context_update(self._scratch)
        if not self._execution.aarch64:
            raise EngineError("the guest runs an AArch32 program: that needs internals=on")

    def _aarch32_pc(self) -> int | None:
        self._refuse_aarch32()
        return None

    def _leave_aarch32(self) -> None:
        self._refuse_aarch32()

    def _skip_instruction(self, esr: Esr) -> None:
        self._uc.reg_write(a64.UC_ARM64_REG_PC, self.pc() + INSTRUCTION)

    def _enter(self, number: int, esr: Esr, address: int) -> None:
        syndrome = {a64.UC_ARM64_REG_ESR_EL1: int(esr)}
        if number in (ExceptionNumber.PREFETCH_ABORT, ExceptionNumber.DATA_ABORT):
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
    if pstate.level == 0:
        return Vector.LOWER_64
    return Vector.CURRENT_SPX if pstate.own_stack else Vector.CURRENT_SP0
