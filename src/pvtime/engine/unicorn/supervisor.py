# SPDX-License-Identifier: GPL-2.0-or-later
"""Whom the emulated CPU asks when the guest needs its hypervisor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pvtime.abi.arm64 import SysReg

__all__ = ["Supervisor"]


class Supervisor(Protocol):
    """The guest's hypervisor, as the CPU sees it."""

    def hypercall(self, registers: Sequence[int]) -> int:
        """HVC with X0 to X3; return X0, signed."""

    def read_register(self, register: SysReg) -> int | None:
        """A trapped MRS; None where there is no such register."""

    def write_register(self, register: SysReg, value: int) -> bool:
        """A trapped MSR; False where there is no such register."""
