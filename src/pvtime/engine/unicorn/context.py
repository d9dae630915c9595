# SPDX-License-Identifier: GPL-2.0-or-later
"""The registers of vCPUs that are not on the emulated CPU, which has one set of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import unicorn
from unicorn import arm64_const as a64
from unicorn import unicorn_const as uc_const

from pvtime.engine.unicorn.el_setup import move_counter, set_mpidr
from pvtime.engine.unicorn.registers import CpuRegisters, read_cpu, write_cpu

__all__ = ["Context", "Contexts"]

Context: TypeAlias = Any
"""unicorn.unicorn_py3.unicorn.UcContext: all registers of a vCPU that is not on the CPU."""


class Contexts:
    """Makes, saves and loads the registers of vCPUs.

    :param uc: a CPU whose registers are those after reset.
    :param leave_aarch32: brings it into AArch64 state.
    """

    def __init__(self, uc: unicorn.Uc, leave_aarch32: Callable[[], None]) -> None:
        self._uc = uc
        self._leave_aarch32 = leave_aarch32
        self._pristine = uc.context_save()

    def new(self, mpidr: int, entry: int, context: int) -> Context:
        """Return the state of a vCPU after reset that is to start at ``entry`` with ``context`` in X0."""
        saved = self._uc.context_save()
        self._uc.context_restore(self._pristine)
        set_mpidr(self._uc, mpidr)
        self._uc.reg_write(a64.UC_ARM64_REG_PC, entry)
        self._uc.reg_write(a64.UC_ARM64_REG_X0, context)
        new = self._uc.context_save()
        self._uc.context_restore(saved)
        return new

    def move_counter(self, offset: int, contexts: Iterable[Context] = ()) -> None:
        """Set the guest's counters ``offset`` ticks behind the host's, while none is on the CPU.

        CNTPCT_EL0 traps then.

        :param contexts: all that exist; those made from now on have it too.
        """
        for context in (self._pristine, *contexts):
            self._uc.context_restore(context)
            move_counter(self._uc, offset)
            self._uc.context_update(context)

    def make(self, mpidr: int, state: CpuRegisters) -> Context:
        """Return a vCPU with the registers of ``state``, which must have been checked."""
        self._uc.context_restore(self._pristine)
        set_mpidr(self._uc, mpidr)
        write_cpu(self._uc, state)
        return self._uc.context_save()

    def read(self, context: Context) -> CpuRegisters:
        """Return a vCPU's registers, while none is on the CPU.

        :raises EngineError: it is in a state that cannot be saved.
        """
        self.load(context)
        self._leave_aarch32()
        return read_cpu(self._uc)

    def save(self, context: Context) -> None:
        """Copy the CPU's registers into ``context``."""
        self._uc.context_update(context)

    def load(self, context: Context) -> None:
        """Put another vCPU on the CPU, and flush the TLB.

        The TLB has the last vCPU's entries. Keeping a TLB for each vCPU would not do: a TLBI that is executed
        while a vCPU is off the CPU would not reach it.
        """
        self._uc.context_restore(context)
        self._uc.ctl(uc_const.UC_CTL_TLB_FLUSH, uc_const.UC_CTL_IO_WRITE)
