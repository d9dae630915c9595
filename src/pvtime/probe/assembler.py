# SPDX-License-Identifier: GPL-2.0-or-later
"""An assembler for bare guests: the A64 instructions that the probe is given and that tests need.

>>> Program(0x4000_0000).mov(0, 0x8400_0008).hvc().assemble().hex()
'000180d20080b0f2020000d4'
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Self

from pvtime.abi.arm64 import SysReg
from pvtime.probe.encoding import (
    AddSubImmediate,
    AddSubShifted,
    Adr,
    BitfieldMove,
    BranchConditional,
    BranchImmediate,
    BranchRegister,
    CompareBranch,
    ExceptionCall,
    LoadStore,
    LoadStoreExclusive,
    LogicalImmediate,
    LogicalShifted,
    MoveWide,
    System,
    mrs,
    msr,
    signed,
)

__all__ = [
    "ELR_EL1",
    "ESR_EL1",
    "FAR_EL1",
    "LR",
    "MPIDR_EL1",
    "VBAR_EL1",
    "XZR",
    "Program",
]

XZR: Final = 31
"""Zero where it is read, nothing where it is written."""

LR: Final = 30
"""The address that BLR leaves and RET goes to."""

MPIDR_EL1: Final = SysReg(3, 0, 0, 0, 5)
ELR_EL1: Final = SysReg(3, 0, 4, 0, 1)
ESR_EL1: Final = SysReg(3, 0, 5, 2, 0)
FAR_EL1: Final = SysReg(3, 0, 6, 0, 0)
VBAR_EL1: Final = SysReg(3, 0, 12, 0, 0)

_TLBI_VMALLE1: Final = SysReg(1, 0, 8, 7, 0)

_SIZES: Final = {1: 0, 2: 1, 4: 2, 8: 3}
"""Bytes of an access, as the instructions have them."""

_CONDITIONS: Final = {"eq": 0, "ne": 1, "hs": 2, "lo": 3}

_DAIF_I: Final = 2
"""Interrupts, in the number of MSR DAIFSet and DAIFClr."""

_SY: Final = 15
"""Domain of a barrier: the full system."""


class Program:
    """Machine code at ``base``, instruction by instruction; branches name labels, also later ones.

    :raises ValueError: of each method: an operand does not fit into the instruction.
    """

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
        """Emit 32-bit words: data, or instructions that this assembler does not know."""
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
        if name not in self._labels:
            raise ValueError(f"no label {name}: give one of {', '.join(self._labels) or 'none'}")
        return self._labels[name]

    def align(self, size: int) -> Self:
        """Fill with NOPs up to a multiple of ``size`` bytes."""
        while self.here % size:
            self.nop()
        return self

    def assemble(self) -> bytes:
        """Return the machine code."""
        for index, name, encode in self._fixups:
            self._words[index] = encode(self.address(name) - (self.base + 4 * index))
        return b"".join(word.to_bytes(4, "little") for word in self._words)

    # Registers.

    def mov(self, rd: int, value: int) -> Self:
        """MOVZ and as many MOVK as the value needs: one for each 16 bits that are not 0."""
        halves = [value >> 16 * hw & 0xFFFF for hw in range(4)]
        self.word(MoveWide.encode(sf=1, opc=2, imm16=halves[0], rd=rd))
        for hw, half in enumerate(halves[1:], start=1):
            if half:
                self.word(MoveWide.encode(sf=1, opc=3, hw=hw, imm16=half, rd=rd))
        return self

    def copy(self, rd: int, rm: int) -> Self:
        """MOV Xd, Xm."""
        return self.word(LogicalShifted.encode(sf=1, opc=1, rm=rm, rn=XZR, rd=rd))

    def add(self, rd: int, rn: int, value: int) -> Self:
        """ADD Xd, Xn, #value."""
        return self.word(AddSubImmediate.encode(sf=1, imm12=value, rn=rn, rd=rd))

    def add_register(self, rd: int, rn: int, rm: int, shift: int = 0) -> Self:
        """ADD Xd, Xn, Xm, LSL #shift."""
        return self.word(AddSubShifted.encode(sf=1, rm=rm, imm6=shift, rn=rn, rd=rd))

    def sub(self, rd: int, rn: int, value: int) -> Self:
        """SUB Xd, Xn, #value."""
        return self.word(AddSubImmediate.encode(sf=1, op=1, imm12=value, rn=rn, rd=rd))

    def compare(self, rn: int, rm: int) -> Self:
        """CMP Xn, Xm."""
        return self.word(AddSubShifted.encode(sf=1, op=1, s=1, rm=rm, rn=rn, rd=XZR))

    def low_bits(self, rd: int, rn: int, bits: int) -> Self:
        """AND Xd, Xn, #(1 << bits) - 1."""
        return self.word(LogicalImmediate.encode(sf=1, n=1, imms=bits - 1, rn=rn, rd=rd))

    def shift_right(self, rd: int, rn: int, bits: int) -> Self:
        """LSR Xd, Xn, #bits."""
        return self.word(BitfieldMove.encode(sf=1, opc=2, n=1, immr=bits, imms=63, rn=rn, rd=rd))

    # Memory.

    def load(self, rt: int, rn: int, offset: int = 0, size: int = 8) -> Self:
        """LDR of ``size`` bytes."""
        return self._access(1, rt, rn, offset, size)

    def store(self, rt: int, rn: int, offset: int = 0, size: int = 8) -> Self:
        """STR of ``size`` bytes."""
        return self._access(0, rt, rn, offset, size)

    def _access(self, opc: int, rt: int, rn: int, offset: int, size: int) -> Self:
        units, rest = divmod(offset, size)
        if rest:
            raise ValueError(f"the offset {offset} is not a multiple of {size}")
        return self.word(LoadStore.encode(size=_SIZES[size], opc=opc, imm12=units, rn=rn, rt=rt))

    def load_exclusive(self, rt: int, rn: int) -> Self:
        """LDXR Xt, [Xn]."""
        return self.word(LoadStoreExclusive.encode(size=_SIZES[8], load=1, rs=XZR, rt2=XZR, rn=rn, rt=rt))

    def store_exclusive(self, rs: int, rt: int, rn: int) -> Self:
        """STXR Ws, Xt, [Xn]."""
        return self.word(LoadStoreExclusive.encode(size=_SIZES[8], rs=rs, rt2=XZR, rn=rn, rt=rt))

    # Branches.

    def _branch(self, name: str, encode: Callable[[int], int]) -> Self:
        """Emit what ``encode`` returns for the distance to a label in bytes, once that is known."""
        self._fixups.append((len(self._words), name, encode))
        return self.word(0)

    def b(self, name: str) -> Self:
        """B label."""
        field = BranchImmediate.imm26
        return self._branch(name, lambda distance: BranchImmediate.encode(imm26=signed(distance // 4, field)))

    def b_if(self, condition: str, name: str) -> Self:
        """B.cond label."""
        cond, field = _CONDITIONS[condition], BranchConditional.imm19
        return self._branch(
            name, lambda distance: BranchConditional.encode(imm19=signed(distance // 4, field), cond=cond)
        )

    def cbz(self, rt: int, name: str) -> Self:
        """CBZ Xt, label."""
        return self._compare_branch(0, rt, name)

    def cbnz(self, rt: int, name: str) -> Self:
        """CBNZ Xt, label."""
        return self._compare_branch(1, rt, name)

    def _compare_branch(self, op: int, rt: int, name: str) -> Self:
        field = CompareBranch.imm19
        return self._branch(
            name,
            lambda distance: CompareBranch.encode(sf=1, op=op, imm19=signed(distance // 4, field), rt=rt),
        )

    def adr(self, rd: int, name: str) -> Self:
        """ADR Xd, label."""
        field = Adr.immhi
        return self._branch(
            name,
            lambda distance: Adr.encode(immlo=distance % 4, immhi=signed(distance // 4, field), rd=rd),
        )

    def br(self, rn: int) -> Self:
        """BR Xn."""
        return self.word(BranchRegister.encode(op2=31, rn=rn))

    def blr(self, rn: int) -> Self:
        """BLR Xn."""
        return self.word(BranchRegister.encode(opc=1, op2=31, rn=rn))

    def ret(self) -> Self:
        """RET."""
        return self.word(BranchRegister.encode(opc=2, op2=31, rn=LR))

    def eret(self) -> Self:
        """ERET."""
        return self.word(BranchRegister.encode(opc=4, op2=31, rn=31))

    def halt(self) -> Self:
        """B to itself."""
        return self.word(BranchImmediate.encode(imm26=0))

    # The system.

    def hvc(self) -> Self:
        """HVC #0."""
        return self.word(ExceptionCall.encode(ll=2))

    def smc(self) -> Self:
        """SMC #0."""
        return self.word(ExceptionCall.encode(ll=3))

    def brk(self, number: int) -> Self:
        """BRK #number."""
        return self.word(ExceptionCall.encode(opc=1, imm16=number))

    def nop(self) -> Self:
        """NOP."""
        return self.word(System.encode(op1=3, crn=2, op2=0, rt=31))

    def wfi(self) -> Self:
        """WFI."""
        return self.word(System.encode(op1=3, crn=2, op2=3, rt=31))

    def dsb(self) -> Self:
        """DSB SY."""
        return self.word(System.encode(op1=3, crn=3, crm=_SY, op2=4, rt=31))

    def isb(self) -> Self:
        """ISB."""
        return self.word(System.encode(op1=3, crn=3, crm=_SY, op2=6, rt=31))

    def unmask_irq(self) -> Self:
        """MSR DAIFClr, #2."""
        return self.word(System.encode(op1=3, crn=4, crm=_DAIF_I, op2=7, rt=31))

    def mask_irq(self) -> Self:
        """MSR DAIFSet, #2."""
        return self.word(System.encode(op1=3, crn=4, crm=_DAIF_I, op2=6, rt=31))

    def tlbi(self) -> Self:
        """TLBI VMALLE1."""
        return self.msr(_TLBI_VMALLE1, 31)

    def mrs(self, rt: int, register: SysReg) -> Self:
        """MRS Xt, register."""
        return self.word(mrs(rt, register))

    def msr(self, register: SysReg, rt: int) -> Self:
        """MSR register, Xt; also SYS, whose operations are named like registers with ``op0`` 1."""
        return self.word(msr(register, rt))
