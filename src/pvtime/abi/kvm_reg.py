# SPDX-License-Identifier: GPL-2.0-or-later
"""Register identifiers of KVM_GET_ONE_REG and KVM_SET_ONE_REG (arch/arm64/include/uapi/asm/kvm.h)."""

from __future__ import annotations

from typing import Final

from pvtime.abi.layout import Field, Register

__all__ = [
    "COUNTERS",
    "MPIDR_EL1",
    "PC",
    "PHYSICAL_COUNTER",
    "PSTATE",
    "SCTLR_EL1",
    "STD_HYP_BMAP",
    "VIRTUAL_COUNTER",
    "RegId",
    "SysregIndex",
    "core",
    "describe",
    "sysreg",
    "x",
]

_ARM64 = 0x60
_CORE = 0x0010
_SYSREG = 0x0013
_FEATURE_BITMAP = 0x0016
_SIZE_U64 = 3


class RegId(Register):
    """A register's identifier."""

    architecture = Field(63, 56)
    size = Field(55, 52)
    """Its bytes, as a power of two."""
    coprocessor = Field(31, 16)
    """The register group."""
    index = Field(15, 0)

    @property
    def bytes(self) -> int:
        """The size of its value."""
        return int(2**self.size)


class SysregIndex(Register):
    """``index`` of a system register: the fields of MRS and MSR."""

    op0 = Field(15, 14)
    op1 = Field(13, 11)
    crn = Field(10, 7)
    crm = Field(6, 3)
    op2 = Field(2, 0)


def core(offset: int) -> int:
    """Return the identifier of the 64-bit core register at byte ``offset`` of struct kvm_regs."""
    return int(RegId.of(architecture=_ARM64, size=_SIZE_U64, coprocessor=_CORE, index=offset // 4))


def sysreg(op0: int, op1: int, crn: int, crm: int, op2: int) -> int:
    """Return the identifier of a system register."""
    index = SysregIndex.of(op0=op0, op1=op1, crn=crn, crm=crm, op2=op2)
    return int(RegId.of(architecture=_ARM64, size=_SIZE_U64, coprocessor=_SYSREG, index=index))


def x(number: int) -> int:
    """Return the identifier of a general register, X0 to X30.

    :raises ValueError: there is no such register.
    """
    if not 0 <= number <= 30:
        raise ValueError(f"there is no X{number}")
    return core(number * 8)


# struct user_pt_regs: regs[31], sp, pc, pstate
PC = core(32 * 8)
PSTATE = core(33 * 8)
MPIDR_EL1 = sysreg(3, 0, 0, 0, 5)
SCTLR_EL1 = sysreg(3, 0, 1, 0, 0)

VIRTUAL_COUNTER = sysreg(3, 3, 14, 3, 2)
"""KVM_REG_ARM_TIMER_CNT. By its fields it is CNTV_CVAL_EL0: the uapi header has the two exchanged."""
PHYSICAL_COUNTER = sysreg(3, 3, 14, 0, 1)
"""KVM_REG_ARM_PTIMER_CNT, which KVM_GET_REG_LIST has since Linux 6.4."""
STD_HYP_BMAP = int(RegId.of(architecture=_ARM64, size=_SIZE_U64, coprocessor=_FEATURE_BITMAP, index=1))
"""KVM_REG_ARM_STD_HYP_BMAP (Linux 5.19): the standard hypervisor calls that the guest is offered."""
COUNTERS: Final = (VIRTUAL_COUNTER, PHYSICAL_COUNTER)
"""They count on by themselves, and are the same for all vCPUs."""

_NAMES: Final = {
    PC: "PC",
    PSTATE: "PSTATE",
    SCTLR_EL1: "SCTLR_EL1",
    VIRTUAL_COUNTER: "the virtual counter",
    PHYSICAL_COUNTER: "the physical counter",
    STD_HYP_BMAP: "the bitmap of standard hypervisor calls",
    sysreg(3, 0, 0, 0, 0): "MIDR_EL1",
    MPIDR_EL1: "MPIDR_EL1",
    sysreg(3, 0, 0, 0, 6): "REVIDR_EL1",
    sysreg(3, 1, 0, 0, 1): "CLIDR_EL1",
    sysreg(3, 1, 0, 0, 7): "AIDR_EL1",
    sysreg(3, 3, 0, 0, 1): "CTR_EL0",
    **{
        sysreg(3, 0, 0, crm, op2): f"ID_AA64{name}_EL1"
        for (crm, op2), name in {
            (4, 0): "PFR0",
            (4, 1): "PFR1",
            (4, 4): "ZFR0",
            (5, 0): "DFR0",
            (5, 1): "DFR1",
            (6, 0): "ISAR0",
            (6, 1): "ISAR1",
            (6, 2): "ISAR2",
            (7, 0): "MMFR0",
            (7, 1): "MMFR1",
            (7, 2): "MMFR2",
        }.items()
    },
}
"""Those that a message may have to name: above all what tells one CPU model from another."""


def describe(register: int) -> str:
    """Return a register's name: the architecture's, or for system registers the assembler's."""
    if register in _NAMES:
        return _NAMES[register]
    identifier = RegId(register)
    if identifier.coprocessor == _SYSREG:
        index = SysregIndex(identifier.index)
        return f"S{index.op0}_{index.op1}_C{index.crn}_C{index.crm}_{index.op2}"
    return f"register {register:#x}"
