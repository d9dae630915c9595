# SPDX-License-Identifier: GPL-2.0-or-later
"""Register identifiers of KVM_GET_ONE_REG and KVM_SET_ONE_REG (arch/arm64/include/uapi/asm/kvm.h)."""

from __future__ import annotations

from pvtime.abi.layout import Field, Register

__all__ = ["MPIDR_EL1", "PC", "PSTATE", "SCTLR_EL1", "RegId", "core", "sysreg", "x"]

_ARM64 = 0x60
_CORE = 0x0010
_SYSREG = 0x0013
_U64 = 3


class RegId(Register):
    """A register's identifier."""

    architecture = Field(63, 56)
    size = Field(55, 52)
    """Its bytes, as a power of two."""
    coprocessor = Field(31, 16)
    """Which group it is in."""
    index = Field(15, 0)


class SysregIndex(Register):
    """``index`` of a system register: the fields of MRS and MSR."""

    op0 = Field(15, 14)
    op1 = Field(13, 11)
    crn = Field(10, 7)
    crm = Field(6, 3)
    op2 = Field(2, 0)


def core(offset: int) -> int:
    """Return the identifier of the 64-bit core register at byte ``offset`` of struct kvm_regs."""
    return int(RegId.of(architecture=_ARM64, size=_U64, coprocessor=_CORE, index=offset // 4))


def sysreg(op0: int, op1: int, crn: int, crm: int, op2: int) -> int:
    """Return the identifier of a system register."""
    index = SysregIndex.of(op0=op0, op1=op1, crn=crn, crm=crm, op2=op2)
    return int(RegId.of(architecture=_ARM64, size=_U64, coprocessor=_SYSREG, index=index))


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
