# SPDX-License-Identifier: GPL-2.0-or-later
"""Instructions that the probe is given to execute, and registers that scenarios read (Arm ARM, DDI 0487)."""

from __future__ import annotations

from typing import Final

from pvtime.abi.arm64 import SysReg
from pvtime.abi.layout import Field, Register

__all__ = ["CNTVCT_EL0", "ID_AA64PFR0_EL1", "MPIDR_EL1", "IdAa64Pfr0", "mrs", "msr"]

MPIDR_EL1: Final = SysReg(3, 0, 0, 0, 5)
ID_AA64PFR0_EL1: Final = SysReg(3, 0, 0, 4, 0)
CNTVCT_EL0: Final = SysReg(3, 3, 14, 0, 2)


class IdAa64Pfr0(Register):
    """ID_AA64PFR0_EL1."""

    gic = Field(27, 24)
    """Not 0: the interrupt controller's CPU interface is in system registers, so it is a GICv3 or later."""


class Move(Register):
    """MRS and MSR (C6.2.228, C6.2.230)."""

    fixed = Field(31, 22)
    read = Field(21)
    op0 = Field(20, 19)
    op1 = Field(18, 16)
    crn = Field(15, 12)
    crm = Field(11, 8)
    op2 = Field(7, 5)
    rt = Field(4, 0)


_MOVE: Final = 0b11_0101_0100


def mrs(register: SysReg) -> int:
    """Return the code of MRS X0, register."""
    return Move.of(fixed=_MOVE, read=1, **register._asdict())


def msr(register: SysReg) -> int:
    """Return the code of MSR register, X0."""
    return Move.of(fixed=_MOVE, read=0, **register._asdict())
