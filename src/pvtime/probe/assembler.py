# SPDX-License-Identifier: GPL-2.0-or-later
"""An assembler for bare guests: the A64 instructions that the probe is given and that tests need.

Encodings are those of the Arm ARM (DDI 0487), section C6.2.

>>> program = Program(0x4000_0000)
>>> program.mov(0, 0x8400_0008).hvc()
>>> program.assemble().hex()
'080090d20080b0f2020000d4'
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Self

from pvtime.abi.arm64 import SysReg
from pvtime.abi.layout import Field, Register

__all__ = [
    "CNTVCT_EL0",
    "ELR_EL1",
    "ESR_EL1",
    "FAR_EL1",
    "ID_AA64PFR0_EL1",
    "MPIDR_EL1",
    "VBAR_EL1",
    "XZR",
    "IdAa64Pfr0",
    "Program",
    "mrs",
    "msr",
]

XZR: Final = 31

MPIDR_EL1: Final = SysReg(3, 0, 0, 0, 5)
ID_AA64PFR0_EL1: Final = SysReg(3, 0, 0, 4, 0)
ELR_EL1: Final = SysReg(3, 0, 4, 0, 1)
ESR_EL1: Final = SysReg(3, 0, 5, 2, 0)
FAR_EL1: Final = SysReg(3, 0, 6, 0, 0)
VBAR_EL1: Final = SysReg(3, 0, 12, 0, 0)
CNTVCT_EL0: Final = SysReg(3, 3, 14, 0, 2)

_LDR: Final = {1: 0x3940_0000, 2: 0x7940_0000, 4: 0xB940_0000, 8: 0xF940_0000}
_STR: Final = {1: 0x3900_0000, 2: 0x7900_0000, 4: 0xB900_0000, 8: 0xF900_0000}
_CONDITIONS: Final = {"eq": 0, "ne": 1, "hs": 2, "lo": 3}


class IdAa64Pfr0(Register):
    """ID_AA64PFR0_EL1."""

    gic = Field(27, 24)
    """Not 0: the CPU interface of the interrupt controller is in system registers: a GICv3 or later."""


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


def mrs(rt: int, register: SysReg) -> int:
    """Return the code of MRS Xt, register."""
    return Move.of(fixed=_MOVE, read=1, rt=rt, **register._asdict())


def msr(register: SysReg, rt: int) -> int:
    """Return the code of MSR register, Xt."""
    return Move.of(fixed=_MOVE, read=0, rt=rt, **register._asdict())


class Program:
    """Machine code at ``base``, instruction by instruction; branches name labels, also later ones."""

    def __init__(self, base: int) -> None:
        self.base = base
        self._words: list[int] = []
        self._labels: dict[str, int] = {}
        self._fixups: list[tuple[int, str, Callable[[int], int]]] = []

    @property
    def here(self) -> int:
        """Address of the next instruction."""
        return self.base + 4 * len(self._words)

    def word(self, *words: int) -> Self:
        """Emit instructions as they are."""
        self._words.extend(words)
        return self

    def label(self, name: str) -> Self:
        """Name the next instruction."""
        if name in self._labels:
            raise ValueError(f"the label {name} is in use: give another name")
        self._labels[name] = self.here
        return self

    def address(self, name: str) -> int:
        """Return the address of a label."""
        return self._labels[name]

    def align(self, size: int) -> Self:
        """Fill with NOPs up to a multiple of ``size`` bytes."""
        while self.here % size:
            self.word(0xD503_201F)
        return self

    def assemble(self) -> bytes:
        """Return the machine code."""
        for index, name, encode in self._fixups:
            self._words[index] = encode((self._labels[name] - self.base) // 4 - index)
        return b"".join(word.to_bytes(4, "little") for word in self._words)

    # Registers.

    def mov(self, rd: int, value: int) -> Self:
        """MOVZ and as many MOVK as it takes."""
        self.word(0xD280_0000 | (value & 0xFFFF) << 5 | rd)
        for half in range(1, 4):
            if part := value >> 16 * half & 0xFFFF:
                self.word(0xF280_0000 | half << 21 | part << 5 | rd)
        return self

    def copy(self, rd: int, rm: int) -> Self:
        """MOV Xd, Xm."""
        return self.word(0xAA00_03E0 | rm << 16 | rd)

    def add(self, rd: int, rn: int, value: int) -> Self:
        """ADD Xd, Xn, #value."""
        return self.word(0x9100_0000 | value << 10 | rn << 5 | rd)

    def add_register(self, rd: int, rn: int, rm: int, shift: int = 0) -> Self:
        """ADD Xd, Xn, Xm, LSL #shift."""
        return self.word(0x8B00_0000 | rm << 16 | shift << 10 | rn << 5 | rd)

    def sub(self, rd: int, rn: int, value: int) -> Self:
        """SUB Xd, Xn, #value."""
        return self.word(0xD100_0000 | value << 10 | rn << 5 | rd)

    def compare(self, rn: int, rm: int) -> Self:
        """CMP Xn, Xm."""
        return self.word(0xEB00_0000 | rm << 16 | rn << 5 | XZR)

    # Memory.

    def load(self, rt: int, rn: int, offset: int = 0, size: int = 8) -> Self:
        """LDR of ``size`` bytes."""
        return self.word(_LDR[size] | offset // size << 10 | rn << 5 | rt)

    def store(self, rt: int, rn: int, offset: int = 0, size: int = 8) -> Self:
        """STR of ``size`` bytes."""
        return self.word(_STR[size] | offset // size << 10 | rn << 5 | rt)

    def load_exclusive(self, rt: int, rn: int) -> Self:
        """LDXR Xt, [Xn]."""
        return self.word(0xC85F_7C00 | rn << 5 | rt)

    def store_exclusive(self, rs: int, rt: int, rn: int) -> Self:
        """STXR Ws, Xt, [Xn]."""
        return self.word(0xC800_7C00 | rs << 16 | rn << 5 | rt)

    # Branches.

    def _branch(self, name: str, encode: Callable[[int], int]) -> Self:
        self._fixups.append((len(self._words), name, encode))
        return self.word(0)

    def b(self, name: str) -> Self:
        """B label."""
        return self._branch(name, lambda distance: 0x1400_0000 | distance & 0x3FF_FFFF)

    def b_if(self, condition: str, name: str) -> Self:
        """B.cond label."""
        code = 0x5400_0000 | _CONDITIONS[condition]
        return self._branch(name, lambda distance: code | (distance & 0x7_FFFF) << 5)

    def cbz(self, rt: int, name: str) -> Self:
        """CBZ Xt, label."""
        return self._branch(name, lambda distance: 0xB400_0000 | (distance & 0x7_FFFF) << 5 | rt)

    def cbnz(self, rt: int, name: str) -> Self:
        """CBNZ Xt, label."""
        return self._branch(name, lambda distance: 0xB500_0000 | (distance & 0x7_FFFF) << 5 | rt)

    def br(self, rn: int) -> Self:
        """BR Xn."""
        return self.word(0xD61F_0000 | rn << 5)

    def adr(self, rd: int, name: str) -> Self:
        """ADR Xd, label; labels are whole instructions apart."""
        return self._branch(name, lambda distance: 0x1000_0000 | (distance & 0x7_FFFF) << 5 | rd)

    # The system.

    def hvc(self) -> Self:
        """HVC #0."""
        return self.word(0xD400_0002)

    def smc(self) -> Self:
        """SMC #0."""
        return self.word(0xD400_0003)

    def wfi(self) -> Self:
        """WFI."""
        return self.word(0xD503_207F)

    def eret(self) -> Self:
        """ERET."""
        return self.word(0xD69F_03E0)

    def unmask_irq(self) -> Self:
        """MSR DAIFClr, #2."""
        return self.word(0xD503_42FF)

    def mask_irq(self) -> Self:
        """MSR DAIFSet, #2."""
        return self.word(0xD503_42DF)

    def mrs(self, rt: int, register: SysReg) -> Self:
        """MRS Xt, register."""
        return self.word(mrs(rt, register))

    def msr(self, register: SysReg, rt: int) -> Self:
        """MSR register, Xt."""
        return self.word(msr(register, rt))
