# SPDX-License-Identifier: GPL-2.0-or-later
"""The host of an emulated CPU without a machine."""

from __future__ import annotations

from collections.abc import Sequence

from pvtime.abi.arm64 import SysReg

__all__ = ["NoTraps"]


class NoTraps:
    """The host of a CPU that traps nothing."""

    def hypercall(self, registers: Sequence[int]) -> int:
        raise AssertionError

    def read_register(self, register: SysReg) -> int | None:
        raise AssertionError

    def write_register(self, register: SysReg, value: int) -> bool:
        raise AssertionError
