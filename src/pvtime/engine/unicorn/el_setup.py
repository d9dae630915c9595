# SPDX-License-Identifier: GPL-2.0-or-later
"""CPU models, and what firmware and a hypervisor leave behind for a guest at EL1."""

from __future__ import annotations

from typing import Final

import unicorn
from unicorn import arm64_const as a64

from pvtime.abi.arm64 import CNTFRQ_EL0, CptrEl3, HcrEl2, ScrEl3, SysReg
from pvtime.abi.layout import U64_MAX

__all__ = ["CPU_MODELS", "move_counter", "set_mpidr", "set_up_el2_el3", "trap_counter"]

CPU_MODELS: Final = {
    "cortex-a53": a64.UC_CPU_ARM64_A53,
    "cortex-a57": a64.UC_CPU_ARM64_A57,
    "cortex-a72": a64.UC_CPU_ARM64_A72,
    "max": a64.UC_CPU_ARM64_MAX,
}

ABORTING_MODELS: Final = frozenset({"max"})
"""Models with FP16, of which the library's decoder passes unallocated encodings, such as 0x0EDD1F75, on to
code that aborts the process. What a model announces in ID_AA64PFR0_EL1 cannot be changed, and would not keep
a guest from executing them."""

_SCR_EL3: Final = SysReg(3, 6, 1, 1, 0)
_CPTR_EL3: Final = SysReg(3, 6, 1, 1, 2)
_HCR_EL2: Final = SysReg(3, 4, 1, 1, 0)
_CNTHCTL_EL2: Final = SysReg(3, 4, 14, 1, 0)
_CNTVOFF_EL2: Final = SysReg(3, 4, 14, 0, 3)
_VMPIDR_EL2: Final = SysReg(3, 4, 0, 0, 5)

_EL1PCTEN: Final = 1
"""CNTHCTL_EL2: the physical counter may be read at EL1; the physical timer's registers trap, for nothing
emulates them."""

_MPIDR_RES1: Final = 1 << 31


def set_up_el2_el3(uc: unicorn.Uc, model: str, *, trap_ids: bool) -> None:
    """Write EL3's and EL2's registers.

    Without SCR_EL3.HCE an HVC is undefined, without RW the MMU walks AArch32 tables. WFI traps, for the
    library does not tell one from another end of a run: a vCPU would seem runnable, and stolen from, where
    a kick came at the moment of its WFI.

    :param trap_ids: have reads of the ID registers trap.
    """
    newest = int(model == "max")
    uc.cpr_write(*_SCR_EL3, ScrEl3.of(ns=1, hce=1, rw=1, api_apk=3 * newest))
    uc.cpr_write(*_HCR_EL2, HcrEl2.of(rw=1, tid3=int(trap_ids), twi=1, api_apk=3 * newest))
    if newest:
        uc.cpr_write(*_CPTR_EL3, CptrEl3.of(ez=1))
    uc.cpr_write(*_CNTHCTL_EL2, _EL1PCTEN)


def set_mpidr(uc: unicorn.Uc, affinity: int) -> None:
    """Set the value that the guest reads in MPIDR_EL1."""
    uc.cpr_write(*_VMPIDR_EL2, _MPIDR_RES1 | affinity)


def trap_counter(uc: unicorn.Uc, hz: int) -> None:
    """Set CNTFRQ_EL0, and have CNTPCT_EL0 trap."""
    uc.cpr_write(*CNTFRQ_EL0, hz)
    uc.cpr_write(*_CNTHCTL_EL2, 0)


def move_counter(uc: unicorn.Uc, offset: int) -> None:
    """Set CNTVCT_EL0 ``offset`` ticks behind the host's counter, and have CNTPCT_EL0 trap."""
    uc.cpr_write(*_CNTVOFF_EL2, offset & U64_MAX)
    uc.cpr_write(*_CNTHCTL_EL2, 0)
