# SPDX-License-Identifier: GPL-2.0-or-later
"""The registers of a vCPU that a save keeps, by name: the same on every host and build of the library.

The library can give out its whole CPU state as bytes, but these hold host addresses and are of one build.
That nothing is missing here is shown by comparing just those bytes before and after
(tests/framework/context.py has what may differ, and why).

Two things that have no name are lost: the PMU's cycle counter jumps if it counts; and a hardware breakpoint
takes effect again when the guest next writes it, as Linux does at a switch to the task.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from struct import Struct, calcsize
from typing import Annotated, Any, Final

import unicorn
from unicorn import arm64_const as a64

from pvtime.abi.arm64 import ExceptionLevel, Pstate, SysReg
from pvtime.abi.layout import U64_MAX
from pvtime.engine.unicorn.uclib import LIBRARY
from pvtime.errors import EngineError, SavedStateError
from pvtime.records import dataclass
from pvtime.schema import U32, U64, U128, Rule, length

__all__ = ["SYSTEM_REGISTERS", "CpuRegisters", "read_cpu", "write_cpu"]

_BREAKPOINTS: Final = 6
_WATCHPOINTS: Final = 4
_EVENT_COUNTERS: Final = 4

SYSTEM_REGISTERS: Final = {
    "MDSCR_EL1": SysReg(2, 0, 0, 2, 2),
    "OSLSR_EL1": SysReg(2, 0, 1, 1, 4),
    **{f"DBGBVR{n}_EL1": SysReg(2, 0, 0, n, 4) for n in range(_BREAKPOINTS)},
    **{f"DBGBCR{n}_EL1": SysReg(2, 0, 0, n, 5) for n in range(_BREAKPOINTS)},
    **{f"DBGWVR{n}_EL1": SysReg(2, 0, 0, n, 6) for n in range(_WATCHPOINTS)},
    **{f"DBGWCR{n}_EL1": SysReg(2, 0, 0, n, 7) for n in range(_WATCHPOINTS)},
    "CSSELR_EL1": SysReg(3, 2, 0, 0, 0),
    "SCTLR_EL1": SysReg(3, 0, 1, 0, 0),
    "CPACR_EL1": SysReg(3, 0, 1, 0, 2),
    "TTBR0_EL1": SysReg(3, 0, 2, 0, 0),
    "TTBR1_EL1": SysReg(3, 0, 2, 0, 1),
    "TCR_EL1": SysReg(3, 0, 2, 0, 2),
    "SPSR_EL1": SysReg(3, 0, 4, 0, 0),
    "ELR_EL1": SysReg(3, 0, 4, 0, 1),
    "ESR_EL1": SysReg(3, 0, 5, 2, 0),
    "FAR_EL1": SysReg(3, 0, 6, 0, 0),
    "PAR_EL1": SysReg(3, 0, 7, 4, 0),
    "MAIR_EL1": SysReg(3, 0, 10, 2, 0),
    "VBAR_EL1": SysReg(3, 0, 12, 0, 0),
    "CONTEXTIDR_EL1": SysReg(3, 0, 13, 0, 1),
    "TPIDR_EL1": SysReg(3, 0, 13, 0, 4),
    "TPIDR_EL0": SysReg(3, 3, 13, 0, 2),
    "TPIDRRO_EL0": SysReg(3, 3, 13, 0, 3),
    "CNTKCTL_EL1": SysReg(3, 0, 14, 1, 0),
    "CNTV_CTL_EL0": SysReg(3, 3, 14, 3, 1),
    "CNTV_CVAL_EL0": SysReg(3, 3, 14, 3, 2),
    "PMINTENSET_EL1": SysReg(3, 0, 9, 14, 1),
    "PMCR_EL0": SysReg(3, 3, 9, 12, 0),
    "PMCNTENSET_EL0": SysReg(3, 3, 9, 12, 1),
    "PMOVSCLR_EL0": SysReg(3, 3, 9, 12, 3),
    "PMSELR_EL0": SysReg(3, 3, 9, 12, 5),
    "PMCCNTR_EL0": SysReg(3, 3, 9, 13, 0),
    "PMUSERENR_EL0": SysReg(3, 3, 9, 14, 0),
    "PMCCFILTR_EL0": SysReg(3, 3, 14, 15, 7),
    **{f"PMEVCNTR{n}_EL0": SysReg(3, 3, 14, 8, n) for n in range(_EVENT_COUNTERS)},
    **{f"PMEVTYPER{n}_EL0": SysReg(3, 3, 14, 12, n) for n in range(_EVENT_COUNTERS)},
}
"""All that a guest at EL1 can set, but for CNTP_*, which are the timer's (:mod:`pvtime.machine.timer`)."""

_GENERAL: Final = [getattr(a64, f"UC_ARM64_REG_X{number}") for number in range(31)]
_VECTOR: Final = [getattr(a64, f"UC_ARM64_REG_V{number}") for number in range(32)]
_OTHERS: Final = [
    a64.UC_ARM64_REG_FPCR,
    a64.UC_ARM64_REG_FPSR,
    a64.UC_ARM64_REG_SP_EL0,
    a64.UC_ARM64_REG_SP_EL1,
    a64.UC_ARM64_REG_SP,
    a64.UC_ARM64_REG_PC,
]

_MODES: Final = {(ExceptionLevel.EL0, 0), (ExceptionLevel.EL1, 0), (ExceptionLevel.EL1, 1)}


def _is_mode(value: int) -> bool:
    pstate = Pstate(value)
    return not pstate.aarch32 and (pstate.level, pstate.own_stack) in _MODES


@dataclass(frozen=True)
class CpuRegisters:
    """A vCPU in AArch64 state, at EL1 or EL0."""

    x: Annotated[list[U64], length(31, 31)]
    """X0 to X30."""
    sp_el0: U64
    sp_el1: U64
    pc: U64
    pstate: Annotated[U32, Rule(_is_mode, "a state at EL1 or EL0 in AArch64")]
    """As SPSR_EL1 would have it."""
    v: Annotated[list[U128], length(32, 32)]
    """V0 to V31."""
    fpcr: U32
    fpsr: U32
    system: dict[str, U64]
    """:data:`SYSTEM_REGISTERS`."""

    def check(self, index: int) -> None:
        """Check that the registers of vCPU ``index`` are those of this version.

        :raises SavedStateError: they are not; the message names one.
        """
        if unknown := self.system.keys() ^ SYSTEM_REGISTERS.keys():
            name = min(unknown)
            what = "there is no" if name in self.system else "it lacks the"
            raise SavedStateError(f"system of vCPU {index}: {what} register {name[:40]!r}")


class _Batch:
    """All registers in one call of the library, of which the binding makes a call with an object for each.

    Measured (2-core x86_64): 0.06 ms for a vCPU, where the binding takes 0.31; the guest is paused meanwhile.

    :param system: the system registers. uc_arm64_cp_reg has a register's encoding, and its value behind it.
    """

    def __init__(self, system: Sequence[SysReg]) -> None:
        self._encodings = [(one.crn, one.crm, one.op0, one.op1, one.op2) for one in system]
        # In the order in which they are written: first PSTATE, because only a system register's write has the
        # library look at it, and last what PSTATE and the banked stack pointers would change.
        registers = [
            (a64.UC_ARM64_REG_PSTATE, "Q"),
            *[(a64.UC_ARM64_REG_CP_REG, "5I4xQ")] * len(system),
            *[(number, "Q") for number in _GENERAL],
            *[(number, "2Q") for number in _VECTOR],
            *[(number, "Q") for number in _OTHERS],
        ]
        self._struct = Struct("=" + "".join(kind for _, kind in registers))
        self._numbers = (ctypes.c_int * len(registers))(*[number for number, _ in registers])
        sizes = [calcsize(f"={kind}") for _, kind in registers]
        self._offsets = [0, *accumulate(sizes[:-1])]

    def read(self, uc: unicorn.Uc) -> tuple[int, list[int], list[int], list[int], Sequence[int]]:
        """Return PSTATE, the system registers, the general ones, the vector ones, and the others."""
        nothing = [0] * (len(_GENERAL) + 2 * len(_VECTOR) + len(_OTHERS))
        buffer = self._buffer(0, [0] * len(self._encodings), nothing)
        self._call(LIBRARY.uc_reg_read_batch, uc, buffer)
        pstate, *values = self._struct.unpack(buffer.raw)
        general = 6 * len(self._encodings)
        vector = general + len(_GENERAL)
        others = vector + 2 * len(_VECTOR)
        halves = values[vector:others]
        return (
            pstate,
            values[5:general:6],
            values[general:vector],
            [low | high << 64 for low, high in zip(halves[::2], halves[1::2], strict=True)],
            values[others:],
        )

    def write(
        self,
        uc: unicorn.Uc,
        pstate: int,
        system: Sequence[int],
        general: Sequence[int],
        vector: Sequence[int],
        others: Sequence[int],
    ) -> None:
        """Write what :meth:`read` returns."""
        halves = [half for value in vector for half in (value & U64_MAX, value >> 64)]
        self._call(LIBRARY.uc_reg_write_batch, uc, self._buffer(pstate, system, [*general, *halves, *others]))

    def _buffer(self, pstate: int, system: Sequence[int], rest: Sequence[int]) -> ctypes.Array[ctypes.c_char]:
        special = [
            part
            for encoding, value in zip(self._encodings, system, strict=True)
            for part in (*encoding, value)
        ]
        return ctypes.create_string_buffer(self._struct.pack(pstate, *special, *rest), self._struct.size)

    def _call(self, function: Any, uc: unicorn.Uc, buffer: ctypes.Array[ctypes.c_char]) -> None:
        address = ctypes.addressof(buffer)
        pointers = (ctypes.c_void_p * len(self._offsets))(*[address + offset for offset in self._offsets])
        if status := function(uc._uch, self._numbers, pointers, len(self._offsets)):
            raise EngineError(f"the Unicorn library refuses a register: error {status}")


@lru_cache(maxsize=1)
def _batch(system: tuple[SysReg, ...]) -> _Batch:
    return _Batch(system)


def read_cpu(uc: unicorn.Uc) -> CpuRegisters:
    """Return the state of the vCPU that is on the CPU, in AArch64 state, between two runs."""
    pstate, system, general, vector, others = _batch(tuple(SYSTEM_REGISTERS.values())).read(uc)
    fpcr, fpsr, sp_el0, sp_el1, current, pc = others
    own_stack = Pstate(pstate).own_stack
    return CpuRegisters(
        x=general,
        sp_el0=sp_el0 if own_stack else current,
        sp_el1=current if own_stack else sp_el1,
        pc=pc,
        pstate=pstate,
        v=vector,
        fpcr=fpcr,
        fpsr=fpsr,
        system=dict(zip(SYSTEM_REGISTERS, system, strict=True)),
    )


def write_cpu(uc: unicorn.Uc, state: CpuRegisters) -> None:
    """Write a checked state to a CPU that is as after a reset.

    The exclusive monitor stays clear: a store-exclusive fails once, as after an exception.
    """
    current = state.sp_el1 if Pstate(state.pstate).own_stack else state.sp_el0
    _batch(tuple(SYSTEM_REGISTERS.values())).write(
        uc,
        state.pstate,
        [state.system[name] for name in SYSTEM_REGISTERS],
        state.x,
        state.v,
        (state.fpcr, state.fpsr, state.sp_el0, state.sp_el1, current, state.pc),
    )
