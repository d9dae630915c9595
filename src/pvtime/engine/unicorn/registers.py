# SPDX-License-Identifier: GPL-2.0-or-later
"""The registers of a vCPU that a save keeps, by name: the same on every host and build of the library.

The library can give out its whole CPU state as bytes, but these hold host addresses and are of one build.
That nothing is missing here is shown by comparing just those bytes before and after
(tests/framework/context.py has what may differ, and why).

Two things that have no name are lost: the PMU's cycle counter jumps if it counts; and a hardware breakpoint
takes effect again when the guest next writes it, as Linux does at a switch to the task.
"""

from __future__ import annotations

from typing import Annotated, Final

import unicorn
from unicorn import arm64_const as a64

from pvtime.abi.arm64 import ExceptionLevel, Pstate, SysReg
from pvtime.errors import SavedStateError
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


def read_cpu(uc: unicorn.Uc) -> CpuRegisters:
    """Return the state of the vCPU that is on the CPU, in AArch64 state, between two runs."""
    pstate = Pstate(uc.reg_read(a64.UC_ARM64_REG_PSTATE))
    current = uc.reg_read(a64.UC_ARM64_REG_SP)
    return CpuRegisters(
        x=list(uc.reg_read_batch(_GENERAL)),
        sp_el0=uc.reg_read(a64.UC_ARM64_REG_SP_EL0) if pstate.own_stack else current,
        sp_el1=current if pstate.own_stack else uc.reg_read(a64.UC_ARM64_REG_SP_EL1),
        pc=uc.reg_read(a64.UC_ARM64_REG_PC),
        pstate=int(pstate),
        v=[uc.reg_read(register) for register in _VECTOR],
        fpcr=uc.reg_read(a64.UC_ARM64_REG_FPCR),
        fpsr=uc.reg_read(a64.UC_ARM64_REG_FPSR),
        system={name: uc.cpr_read(*register) for name, register in SYSTEM_REGISTERS.items()},
    )


def write_cpu(uc: unicorn.Uc, state: CpuRegisters) -> None:
    """Write a checked state to a CPU that is as after a reset.

    The exclusive monitor stays clear: a store-exclusive fails once, as after an exception.
    """
    # First PSTATE, because only a system register's write has the library look at it.
    uc.reg_write(a64.UC_ARM64_REG_PSTATE, state.pstate)
    for name, register in SYSTEM_REGISTERS.items():
        uc.cpr_write(*register, state.system[name])
    uc.reg_write_batch(list(zip(_GENERAL, state.x, strict=True)))
    for number, value in zip(_VECTOR, state.v, strict=True):
        uc.reg_write(number, value)
    uc.reg_write(a64.UC_ARM64_REG_FPCR, state.fpcr)
    uc.reg_write(a64.UC_ARM64_REG_FPSR, state.fpsr)
    uc.reg_write(a64.UC_ARM64_REG_SP_EL0, state.sp_el0)
    uc.reg_write(a64.UC_ARM64_REG_SP_EL1, state.sp_el1)
    uc.reg_write(a64.UC_ARM64_REG_SP, state.sp_el1 if Pstate(state.pstate).own_stack else state.sp_el0)
    uc.reg_write(a64.UC_ARM64_REG_PC, state.pc)
