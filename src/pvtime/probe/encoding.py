# SPDX-License-Identifier: GPL-2.0-or-later
"""Formats of A64 instructions as declarations: the operands' bits, and the bits that identify the format.

Formats and names of fields are those of the Arm ARM (DDI 0487), section C4.1, "A64 instruction set encoding".

>>> hex(MoveWide.encode(sf=1, opc=2, imm16=0x1234, rd=3))
'0xd2824683'
"""

from __future__ import annotations

from typing import ClassVar

from pvtime.abi.arm64 import SysReg
from pvtime.abi.layout import Field, Register

__all__ = [
    "AddSubImmediate",
    "AddSubShifted",
    "Adr",
    "BitfieldMove",
    "BranchConditional",
    "BranchImmediate",
    "BranchRegister",
    "CompareBranch",
    "ExceptionCall",
    "Instruction",
    "LoadStore",
    "LoadStoreExclusive",
    "LogicalImmediate",
    "LogicalShifted",
    "MoveWide",
    "System",
    "mrs",
    "msr",
    "signed",
]


class Instruction(Register):
    """An instruction's 32 bits. A format declares its fields, and the value of the one called ``fixed``."""

    FIXED: ClassVar[int]

    @classmethod
    def encode(cls, **operands: int) -> int:
        """Return the code of an instruction of this format; operands that are not named are 0.

        :raises ValueError: an operand does not fit.
        """
        return int(cls.of(fixed=cls.FIXED, **operands))


def signed(value: int, field: Field) -> int:
    """Return a signed operand as a field holds it, in two's complement.

    :raises ValueError: it does not fit.
    """
    if not -field.mask - 1 <= 2 * value <= field.mask:
        raise ValueError(f"{value} does not fit into {field.mask.bit_length()} bits with a sign")
    return value & field.mask


class MoveWide(Instruction):
    """MOVN (``opc`` 0), MOVZ (2) and MOVK (3)."""

    FIXED = 0b100101
    sf = Field(31)
    """1: the operation is on 64 bits, here and in the formats below."""
    opc = Field(30, 29)
    fixed = Field(28, 23)
    hw = Field(22, 21)
    imm16 = Field(20, 5)
    rd = Field(4, 0)


class AddSubImmediate(Instruction):
    """ADD and SUB (``op`` 1) of a number of 12 bits; with ``s`` they set the flags."""

    FIXED = 0b100010
    sf = Field(31)
    op = Field(30)
    s = Field(29)
    fixed = Field(28, 23)
    sh = Field(22)
    imm12 = Field(21, 10)
    rn = Field(9, 5)
    rd = Field(4, 0)


class AddSubShifted(Instruction):
    """ADD and SUB (``op`` 1) of a register that is shifted to the left; with ``s`` they set the flags."""

    FIXED = 0b01011
    sf = Field(31)
    op = Field(30)
    s = Field(29)
    fixed = Field(28, 24)
    shift = Field(23, 22)
    rm = Field(20, 16)
    imm6 = Field(15, 10)
    rn = Field(9, 5)
    rd = Field(4, 0)


class LogicalShifted(Instruction):
    """AND (``opc`` 0), ORR (1), EOR (2) and ANDS (3) of two registers."""

    FIXED = 0b01010
    sf = Field(31)
    opc = Field(30, 29)
    fixed = Field(28, 24)
    shift = Field(23, 22)
    n = Field(21)
    rm = Field(20, 16)
    imm6 = Field(15, 10)
    rn = Field(9, 5)
    rd = Field(4, 0)


class LogicalImmediate(Instruction):
    """AND (``opc`` 0), ORR (1), EOR (2) and ANDS (3) of a register and a mask."""

    FIXED = 0b100100
    sf = Field(31)
    opc = Field(30, 29)
    fixed = Field(28, 23)
    n = Field(22)
    immr = Field(21, 16)
    imms = Field(15, 10)
    rn = Field(9, 5)
    rd = Field(4, 0)


class BitfieldMove(Instruction):
    """SBFM (``opc`` 0), BFM (1) and UBFM (2)."""

    FIXED = 0b100110
    sf = Field(31)
    opc = Field(30, 29)
    fixed = Field(28, 23)
    n = Field(22)
    immr = Field(21, 16)
    imms = Field(15, 10)
    rn = Field(9, 5)
    rd = Field(4, 0)


class LoadStore(Instruction):
    """STR (``opc`` 0) and LDR (1) of 1 << ``size`` bytes at an offset that counts in such units."""

    FIXED = 0b111001
    size = Field(31, 30)
    fixed = Field(29, 24)
    opc = Field(23, 22)
    imm12 = Field(21, 10)
    rn = Field(9, 5)
    rt = Field(4, 0)


class LoadStoreExclusive(Instruction):
    """STXR and LDXR (``load``) of 1 << ``size`` bytes; ``rs`` and ``rt2`` are 31 where they mean nothing."""

    FIXED = 0b001000
    size = Field(31, 30)
    fixed = Field(29, 24)
    load = Field(22)
    rs = Field(20, 16)
    rt2 = Field(14, 10)
    rn = Field(9, 5)
    rt = Field(4, 0)


class BranchImmediate(Instruction):
    """B (``op`` 0) and BL (1), by a number of instructions."""

    FIXED = 0b00101
    op = Field(31)
    fixed = Field(30, 26)
    imm26 = Field(25, 0)


class BranchConditional(Instruction):
    """B.cond, by a number of instructions."""

    FIXED = 0b01010100
    fixed = Field(31, 24)
    imm19 = Field(23, 5)
    cond = Field(3, 0)


class CompareBranch(Instruction):
    """CBZ (``op`` 0) and CBNZ (1), by a number of instructions."""

    FIXED = 0b011010
    sf = Field(31)
    fixed = Field(30, 25)
    op = Field(24)
    imm19 = Field(23, 5)
    rt = Field(4, 0)


class BranchRegister(Instruction):
    """BR (``opc`` 0), BLR (1), RET (2) and ERET (4, with ``rn`` 31); ``op2`` is 31."""

    FIXED = 0b1101011
    fixed = Field(31, 25)
    opc = Field(24, 21)
    op2 = Field(20, 16)
    rn = Field(9, 5)


class Adr(Instruction):
    """ADR (``op`` 0), by a number of bytes, whose two lowest bits are ``immlo``."""

    FIXED = 0b10000
    op = Field(31)
    immlo = Field(30, 29)
    fixed = Field(28, 24)
    immhi = Field(23, 5)
    rd = Field(4, 0)


class ExceptionCall(Instruction):
    """SVC, HVC and SMC (``opc`` 0, ``ll`` 1, 2, 3), and BRK (``opc`` 1)."""

    FIXED = 0b11010100
    fixed = Field(31, 24)
    opc = Field(23, 21)
    imm16 = Field(20, 5)
    ll = Field(1, 0)


class System(Instruction):
    """MRS (``read``), MSR, SYS (``op0`` 1); hints, barriers and fields of PSTATE (``op0`` 0, ``rt`` 31)."""

    FIXED = 0b11_0101_0100
    fixed = Field(31, 22)
    read = Field(21)
    op0 = Field(20, 19)
    op1 = Field(18, 16)
    crn = Field(15, 12)
    crm = Field(11, 8)
    op2 = Field(7, 5)
    rt = Field(4, 0)


def mrs(rt: int, register: SysReg) -> int:
    """Return the code of MRS Xt, register."""
    return System.encode(read=1, rt=rt, **register._asdict())


def msr(register: SysReg, rt: int) -> int:
    """Return the code of MSR register, Xt."""
    return System.encode(read=0, rt=rt, **register._asdict())
