# SPDX-License-Identifier: GPL-2.0-or-later
"""The Generic Interrupt Controller, version 3 (Arm IHI 0069), where it is not as version 2 (abi/gicv2.py)."""

from __future__ import annotations

from typing import Final

from pvtime.abi.arm64 import SysReg

__all__ = ["GICD_IROUTER", "ICC_IGRPEN1_EL1", "ICC_PMR_EL1"]

GICD_IROUTER: Final = 0x6000
"""Byte offset in the distributor; 8 bytes for each INTID from 32 on (12.9.22)."""

ICC_PMR_EL1: Final = SysReg(3, 0, 4, 6, 0)
ICC_IGRPEN1_EL1: Final = SysReg(3, 0, 12, 12, 7)
