# SPDX-License-Identifier: GPL-2.0-or-later
"""Registers of the A64 architecture that an engine touches (Arm ARM, DDI 0487)."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from pvtime.abi.layout import Field, Register

__all__ = [
    "CNTFRQ_EL0",
    "CNTKCTL_EL1",
    "CNTPCT_EL0",
    "CNTP_CTL_EL0",
    "CNTP_CVAL_EL0",
    "CNTP_TVAL_EL0",
    "CNTVCT_EL0",
    "CNTV_TVAL_EL0",
    "IC_IALLU",
    "IC_IALLUIS",
    "IC_IVAU",
    "ID_AA64MMFR0_EL1",
    "ID_AA64PFR0_EL1",
    "ID_PFR1_EL1",
    "CntkctlEl1",
    "CptrEl3",
    "Esr",
    "ExceptionClass",
    "ExceptionLevel",
    "HcrEl2",
    "IdAa64Mmfr0",
    "IdAa64Pfr0",
    "IdPfr1",
    "Pstate",
    "ScrEl3",
    "SysReg",
    "SysRegAccess",
    "SysRegInstruction",
    "Vector",
]


class ExceptionLevel(IntEnum):
    """EL0 to EL3."""

    EL0 = 0
    EL1 = 1
    EL2 = 2
    EL3 = 3


class ExceptionClass(IntEnum):
    """ESR_ELx.EC (D17.2.37)."""

    UNKNOWN = 0x00
    WFX = 0x01
    SYSTEM_REGISTER = 0x18
    INSTRUCTION_ABORT_LOWER = 0x20
    INSTRUCTION_ABORT = 0x21
    DATA_ABORT_LOWER = 0x24
    DATA_ABORT = 0x25


class Esr(Register):
    """ESR_ELx: the syndrome of an exception."""

    ec = Field(31, 26)
    il = Field(25)
    iss = Field(24, 0)
    fault_status = Field(5, 0)


class Pstate(Register):
    """PSTATE in the layout of SPSR_ELx, AArch64 state."""

    pan = Field(22)
    il = Field(20)
    daif = Field(9, 6)
    irq_masked = Field(7)
    aarch32 = Field(4)
    level = Field(3, 2)
    own_stack = Field(0)


class ScrEl3(Register):
    """SCR_EL3 (D17.2.117), as far as a guest at EL1 depends on it."""

    api_apk = Field(17, 16)
    """Pointer authentication does not trap."""
    rw = Field(10)
    """EL2 is AArch64."""
    hce = Field(8)
    """HVC is enabled."""
    ns = Field(0)


class HcrEl2(Register):
    """HCR_EL2 (D17.2.48), as far as a guest at EL1 depends on it."""

    api_apk = Field(41, 40)
    """Pointer authentication does not trap."""
    rw = Field(31)
    """EL1 is AArch64."""
    tid3 = Field(18)
    """Reads of the ID registers trap."""
    twi = Field(13)
    """WFI traps."""


class CntkctlEl1(Register):
    """CNTKCTL_EL1 (D17.11.7): what EL0 may read."""

    el0vten = Field(8)
    """The virtual timer's registers."""
    el0vcten = Field(1)
    """CNTVCT_EL0 and CNTFRQ_EL0."""


class CptrEl3(Register):
    """CPTR_EL3 (D17.2.31)."""

    ez = Field(8)
    """SVE does not trap."""


class IdAa64Mmfr0(Register):
    """ID_AA64MMFR0_EL1 (D17.2.64), the translation granules."""

    tgran4 = Field(31, 28)
    """15: none; else present."""
    tgran64 = Field(27, 24)
    """15: none; else present."""
    tgran16 = Field(23, 20)
    """0: none; else present."""

    @property
    def page_sizes(self) -> frozenset[int]:
        """The page sizes, in bytes, that a stage 1 translation can have."""
        present = {4096: self.tgran4 != 15, 16384: self.tgran16 != 0, 65536: self.tgran64 != 15}
        return frozenset(size for size, is_present in present.items() if is_present)


class IdAa64Pfr0(Register):
    """ID_AA64PFR0_EL1 (D17.2.67)."""

    gic = Field(27, 24)
    """1: the CPU interface of a GICv3 or GICv4 is system registers."""


class IdPfr1(Register):
    """ID_PFR1_EL1 (D17.2.85), the same for AArch32."""

    gic = Field(31, 28)


class Vector(IntEnum):
    """Offsets into the table at VBAR_EL1 (D1.3.1): who was interrupted, then by what."""

    CURRENT_SP0 = 0x000
    CURRENT_SPX = 0x200
    LOWER_64 = 0x400
    LOWER_32 = 0x600
    IRQ = 0x80


class SysReg(NamedTuple):
    """A system register's name in an MRS or MSR instruction."""

    op0: int
    op1: int
    crn: int
    crm: int
    op2: int


class SysRegInstruction(Register):
    """MRS or MSR of a register (C6.2.228, C6.2.230)."""

    opcode = Field(31, 22)
    read = Field(21)
    one = Field(20)
    op0 = Field(20, 19)
    op1 = Field(18, 16)
    crn = Field(15, 12)
    crm = Field(11, 8)
    op2 = Field(7, 5)
    rt = Field(4, 0)

    @property
    def access(self) -> SysRegAccess | None:
        """The syndrome that the instruction has where it traps; None: it is another instruction."""
        if self.opcode != _MRS_MSR or not self.one:
            return None
        return SysRegAccess.of(
            op0=self.op0,
            op1=self.op1,
            crn=self.crn,
            crm=self.crm,
            op2=self.op2,
            rt=self.rt,
            read=self.read,
        )


_MRS_MSR = 0b11_0101_0100


class SysRegAccess(Register):
    """ESR_ELx.ISS of a trapped MRS or MSR (EC 0x18)."""

    op0 = Field(21, 20)
    op2 = Field(19, 17)
    op1 = Field(16, 14)
    crn = Field(13, 10)
    rt = Field(9, 5)
    crm = Field(4, 1)
    read = Field(0)

    @property
    def register(self) -> SysReg:
        """The system register in the instruction."""
        return SysReg(self.op0, self.op1, self.crn, self.crm, self.op2)


ID_PFR1_EL1 = SysReg(3, 0, 0, 1, 1)
ID_AA64PFR0_EL1 = SysReg(3, 0, 0, 4, 0)
ID_AA64MMFR0_EL1 = SysReg(3, 0, 0, 7, 0)
CNTKCTL_EL1 = SysReg(3, 0, 14, 1, 0)
CNTFRQ_EL0 = SysReg(3, 3, 14, 0, 0)
CNTPCT_EL0 = SysReg(3, 3, 14, 0, 1)
CNTVCT_EL0 = SysReg(3, 3, 14, 0, 2)
CNTP_TVAL_EL0 = SysReg(3, 3, 14, 2, 0)
CNTP_CTL_EL0 = SysReg(3, 3, 14, 2, 1)
CNTP_CVAL_EL0 = SysReg(3, 3, 14, 2, 2)
CNTV_TVAL_EL0 = SysReg(3, 3, 14, 3, 0)

IC_IALLUIS = SysReg(1, 0, 7, 1, 0)
IC_IALLU = SysReg(1, 0, 7, 5, 0)
IC_IVAU = SysReg(1, 3, 7, 5, 1)
