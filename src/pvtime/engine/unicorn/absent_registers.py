# SPDX-License-Identifier: GPL-2.0-or-later
"""System registers that the library lacks: a GICv3's CPU interface, and the ID registers that tell of it.

An MRS or MSR of an ICC_*_EL1 register is an undefined instruction to the library, without a syndrome that
names the register: the instruction itself is read. ID_AA64PFR0_EL1 and ID_PFR1_EL1 have no GIC, and can be
changed only for a guest whose reads of ID registers trap (HCR_EL2.TID3), which are a few hundred in a boot.

Hooks on MRS and MSR, in contrast, would be called for each of them: a kernel executes a million in a boot.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import unicorn

from pvtime.abi.arm64 import (
    ID_AA64PFR0_EL1,
    ID_PFR1_EL1,
    IdAa64Pfr0,
    IdPfr1,
    SysReg,
    SysRegAccess,
    SysRegInstruction,
)
from pvtime.engine.unicorn.code_reader import CodeReader

__all__ = ["AbsentRegisters"]

_ID_CRM: Final = range(1, 8)
"""The ID registers of group 3 are op0 = 3, op1 = 0, CRn = 0 and these CRm (D13.1.4)."""
_OP2: Final = range(8)


class AbsentRegisters:
    """The registers of one CPU.

    :param uc: at EL3, before the ID registers trap.
    """

    def __init__(self, uc: unicorn.Uc, code: CodeReader) -> None:
        self._code = code
        self._ids = _read_ids(uc)

    def id_register(self, register: SysReg) -> int | None:
        """Return an ID register as the guest sees it; None: it is another register."""
        return self._ids.get(register)

    def access_at(self, pc: int) -> SysRegAccess | None:
        """Return the access that the instruction at a virtual address makes; None: it makes none."""
        word = self._code.word(pc)
        return None if word is None else _decode(word)


@lru_cache(maxsize=256)
def _decode(word: int) -> SysRegAccess | None:
    """Return the access that an instruction makes; a kernel has a few dozen of these instructions."""
    return SysRegInstruction(word).access


def _read_ids(uc: unicorn.Uc) -> dict[SysReg, int]:
    """Return the library's ID registers, with a GICv3 in them."""
    ids = {}
    for crm in _ID_CRM:
        for op2 in _OP2:
            register = SysReg(3, 0, 0, crm, op2)
            try:
                ids[register] = uc.cpr_read(*register)
            except unicorn.UcError:
                continue  # the library has none there
    ids[ID_AA64PFR0_EL1] = IdAa64Pfr0(ids[ID_AA64PFR0_EL1]).with_(gic=1)
    ids[ID_PFR1_EL1] = IdPfr1(ids[ID_PFR1_EL1]).with_(gic=1)
    return ids
