# SPDX-License-Identifier: GPL-2.0-or-later
"""The library's own bytes of a vCPU: what of them a save by names must keep, which is nearly all."""

from __future__ import annotations

from typing import Final

from pvtime.abi.arm64 import Pstate
from pvtime.engine.unicorn.core import Core
from pvtime.engine.unicorn.registers import CpuRegisters

__all__ = ["refuse_loss"]

_HEADER: Final = 0x28
"""Bytes before QEMU's CPUARMState (target/arm/cpu.h)."""

_FLAGS: Final = range(0x208, 0x218)
"""CF, VF, NF and ZF: many values mean the same flag. PSTATE has it by name."""

_OTHER_STACK: Final = {1: range(0x260, 0x268), 0: range(0x258, 0x260)}
"""The memory of the stack pointer that is in use, by PSTATE.SP: out of date until another is used."""

_EXCEPTED: Final = (
    range(0x810, 0x818),  # c15_ccnt_delta: of the host's clock
    range(0xBD0, 0xBE4),  # exception: the last one's description; each is described anew before it is taken
    range(0x2E50, 0x2E60),  # vfp.qc: any value but 0 is FPSR.QC
    range(0x2ECA, 0x2ECB),  # fp_status.float_exception_flags: two of them are FPSR.UFC
    range(0x30B8, 0x30E8),  # cpu_breakpoint: host addresses, made when the guest writes the register
    range(0x2F00, 0x2F18),  # exclusive_addr, exclusive_val, exclusive_high: the monitor, which is cleared
)


def refuse_loss(core: Core, mpidr: int, before: object) -> CpuRegisters:
    """Check that a context that is made anew from the names in ``before`` is the same; return the names."""
    state = core.contexts.read(before)
    after = core.contexts.make(mpidr, state)
    assert core.contexts.read(after) == state
    old, new = bytes(before)[_HEADER:], bytes(after)[_HEADER:]  # type: ignore[call-overload]
    assert len(old) == len(new)
    excepted = {*_FLAGS, *_OTHER_STACK[Pstate(state.pstate).own_stack]}.union(*_EXCEPTED)
    lost = [
        at
        for at in range(0, len(old), 8)
        if any(old[i] != new[i] for i in range(at, at + 8) if i not in excepted)
    ]
    assert not lost, [(hex(at), old[at : at + 8].hex(), new[at : at + 8].hex()) for at in lost]
    return state
