# SPDX-License-Identifier: GPL-2.0-or-later
"""PSCI 1.1 (Arm DEN0022), answered as KVM does (arch/arm64/kvm/psci.c)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from pvtime.abi.layout import U32_MAX, U64_MAX
from pvtime.abi.psci import VERSION_1_1, Affinity, Psci, PsciReturn, Tos
from pvtime.abi.smccc import FunctionId, Smccc

__all__ = ["MPIDR_AFFINITY", "Power", "PsciCalls"]

MPIDR_AFFINITY: Final = 0xFF_00FF_FFFF
"""The affinity fields of MPIDR_EL1; any other bit set names no CPU."""

_AFFINITY_LEVELS = 4
_AFFINITY_BITS = 8
_RESET_TYPE_VENDOR = 0x8000_0000


class Power(Protocol):
    """Power control of vCPUs by their indices, as PSCI needs it; an engine implements it."""

    def is_on(self, index: int) -> bool:
        """Whether the vCPU is powered."""

    def power_on(self, index: int, entry: int, context: int) -> None:
        """Reset the vCPU and run it from ``entry`` with ``context`` in X0."""

    def power_off(self, index: int) -> None:
        """Stop the calling vCPU."""

    def suspend(self, index: int) -> None:
        """Stop the calling vCPU until an interrupt is pending for it."""

    def system_off(self) -> None:
        """Power the machine off."""

    def system_reset(self) -> None:
        """Reset the machine."""


_FEATURES = frozenset(Psci) | {Smccc.VERSION}


class PsciCalls:
    """Answers PSCI calls of a machine whose vCPU ``i`` has affinity ``mpidrs[i]``."""

    def __init__(self, mpidrs: Sequence[int], power: Power) -> None:
        self._mpidrs = list(mpidrs)
        self._power = power

    def call(self, index: int, function: int, args: Sequence[int]) -> int:
        """Carry out a call by vCPU ``index`` and return its X0 (signed).

        ``args`` are X1 to X3; the 32-bit forms use their lower halves.
        """
        if not FunctionId(function).smc64:
            args = [arg & U32_MAX for arg in args]
        match function:
            case Psci.VERSION:
                return VERSION_1_1
            case Psci.FEATURES:
                return PsciReturn.SUCCESS if args[0] & U32_MAX in _FEATURES else PsciReturn.NOT_SUPPORTED
            case Psci.CPU_SUSPEND | Psci.CPU_SUSPEND_64:
                self._power.suspend(index)
                return PsciReturn.SUCCESS
            case Psci.CPU_OFF:
                self._power.power_off(index)
                return PsciReturn.SUCCESS
            case Psci.CPU_ON | Psci.CPU_ON_64:
                return self._cpu_on(*args)
            case Psci.AFFINITY_INFO | Psci.AFFINITY_INFO_64:
                return self._affinity_info(args[0], args[1])
            case Psci.MIGRATE_INFO_TYPE:
                return Tos.MP_OR_NONE
            case Psci.SYSTEM_OFF:
                self._power.system_off()
                return PsciReturn.INTERNAL_FAILURE
            case Psci.SYSTEM_RESET:
                self._power.system_reset()
                return PsciReturn.INTERNAL_FAILURE
            case Psci.SYSTEM_RESET2 | Psci.SYSTEM_RESET2_64:
                return self._system_reset2(args[0])
        return PsciReturn.NOT_SUPPORTED

    def _cpu_on(self, target: int, entry: int, context: int) -> int:
        if target not in self._mpidrs:
            return PsciReturn.INVALID_PARAMETERS
        index = self._mpidrs.index(target)
        if self._power.is_on(index):
            return PsciReturn.ALREADY_ON
        self._power.power_on(index, entry, context)
        return PsciReturn.SUCCESS

    def _affinity_info(self, target: int, level: int) -> int:
        if level >= _AFFINITY_LEVELS or target & ~MPIDR_AFFINITY:
            return PsciReturn.INVALID_PARAMETERS
        mask = U64_MAX << (level * _AFFINITY_BITS) & U64_MAX
        # The affinity fields of level 3 start at bit 32, above a gap: KVM shifts as if there were none.
        matching = [i for i, mpidr in enumerate(self._mpidrs) if mpidr & mask == target & mask]
        if not matching:
            return PsciReturn.INVALID_PARAMETERS
        return Affinity.ON if any(map(self._power.is_on, matching)) else Affinity.OFF

    def _system_reset2(self, reset_type: int) -> int:
        # A type has 32 bits, also where the 64-bit form brings it in a whole register.
        if 0 < reset_type & U32_MAX < _RESET_TYPE_VENDOR:
            return PsciReturn.INVALID_PARAMETERS
        self._power.system_reset()
        return PsciReturn.INTERNAL_FAILURE
