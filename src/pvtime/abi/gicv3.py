# SPDX-License-Identifier: GPL-2.0-or-later
"""The Generic Interrupt Controller, version 3 (Arm IHI 0069), where it is not as version 2 (abi/gicv2.py).

Only what a machine without LPIs and with one Security state has (GICD_CTLR.DS).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from pvtime.abi.arm64 import SysReg
from pvtime.abi.layout import Field, Register

__all__ = [
    "GICD_IROUTER",
    "GICD_PIDR2",
    "ICC_AP0R0_EL1",
    "ICC_AP1R0_EL1",
    "ICC_ASGI1R_EL1",
    "ICC_BPR0_EL1",
    "ICC_BPR1_EL1",
    "ICC_CTLR_EL1",
    "ICC_DIR_EL1",
    "ICC_EOIR0_EL1",
    "ICC_EOIR1_EL1",
    "ICC_HPPIR0_EL1",
    "ICC_HPPIR1_EL1",
    "ICC_IAR0_EL1",
    "ICC_IAR1_EL1",
    "ICC_IGRPEN0_EL1",
    "ICC_IGRPEN1_EL1",
    "ICC_PMR_EL1",
    "ICC_RPR_EL1",
    "ICC_SGI0R_EL1",
    "ICC_SGI1R_EL1",
    "ICC_SRE_EL1",
    "PIDR2_GICV3",
    "REDISTRIBUTOR_SIZE",
    "SGI_FRAME",
    "GicdCtlr3",
    "GicdTyper3",
    "Gicr",
    "GicrTyper",
    "IccCtlr",
    "IccSgi1r",
    "IccSre",
]

GICD_IROUTER: Final = 0x6000
"""Byte offset in the distributor; 8 bytes for each INTID from 32 on (12.9.22)."""

GICD_PIDR2: Final = 0xFFE8
"""Byte offset in the distributor, and of GICR_PIDR2 in a redistributor."""

PIDR2_GICV3: Final = 0x3B
"""Architecture revision 3, and JEDEC's code for Arm (12.9.28)."""

SGI_FRAME: Final = 0x1_0000
"""Offset in a redistributor of its SGIs' and PPIs' registers, which are laid out like the distributor's."""

REDISTRIBUTOR_SIZE: Final = 0x2_0000
"""Bytes of a redistributor without LPIs of the hypervisor's: RD_base and SGI_base (12.10)."""


class GicdCtlr3(Register):
    """GICD_CTLR with one Security state (12.9.4)."""

    ds = Field(6)
    """There is one Security state."""
    are = Field(4)
    """Affinity routing is enabled."""
    enable_group1 = Field(1)
    enable_group0 = Field(0)


class GicdTyper3(Register):
    """GICD_TYPER (12.9.38)."""

    no_1_of_n = Field(25)
    """No SPI goes to any one of all CPUs."""
    id_bits = Field(23, 19)
    """Bits of an INTID, less one."""
    lines = Field(4, 0)
    """INTIDs in units of 32, less one."""


class Gicr(IntEnum):
    """Registers of RD_base: byte offsets (12.10). Those of SGI_base are as a distributor has them."""

    CTLR = 0x0000
    IIDR = 0x0004
    TYPER = 0x0008
    WAKER = 0x0014


class GicrTyper(Register):
    """GICR_TYPER (12.11.35)."""

    affinity = Field(63, 32)
    """Aff3 to Aff0."""
    processor = Field(23, 8)
    last = Field(4)
    """The last redistributor of a contiguous region."""


class IccCtlr(Register):
    """ICC_CTLR_EL1 (12.2.6)."""

    priority_bits = Field(10, 8)
    """PRIbits: bits of priority, less one."""
    eoi_mode = Field(1)
    """ICC_EOIR1_EL1 only drops the priority; ICC_DIR_EL1 deactivates."""
    common_bpr = Field(0)

    @property
    def active_priorities(self) -> int:
        """Number of registers of ICC_AP0R and of ICC_AP1R (IHI 0069, 12.2.1)."""
        return {4: 1, 5: 2}.get(self.priority_bits, 4)


class IccSre(Register):
    """ICC_SRE_EL1 (12.2.24)."""

    dib = Field(2)
    dfb = Field(1)
    sre = Field(0)
    """The CPU interface is these registers, not memory."""


class IccSgi1r(Register):
    """ICC_SGI1R_EL1 (12.2.21)."""

    aff3 = Field(55, 48)
    range = Field(47, 44)
    """RS: the targets are Aff0 of 16 times this, and up."""
    to_others = Field(40)
    """IRM: to all CPUs but the sender."""
    aff2 = Field(39, 32)
    intid = Field(27, 24)
    aff1 = Field(23, 16)
    targets = Field(15, 0)
    """One bit for each Aff0."""


ICC_PMR_EL1: Final = SysReg(3, 0, 4, 6, 0)
ICC_IAR0_EL1: Final = SysReg(3, 0, 12, 8, 0)
ICC_EOIR0_EL1: Final = SysReg(3, 0, 12, 8, 1)
ICC_HPPIR0_EL1: Final = SysReg(3, 0, 12, 8, 2)
ICC_BPR0_EL1: Final = SysReg(3, 0, 12, 8, 3)
ICC_AP0R0_EL1: Final = SysReg(3, 0, 12, 8, 4)
ICC_AP1R0_EL1: Final = SysReg(3, 0, 12, 9, 0)
ICC_DIR_EL1: Final = SysReg(3, 0, 12, 11, 1)
ICC_RPR_EL1: Final = SysReg(3, 0, 12, 11, 3)
ICC_SGI1R_EL1: Final = SysReg(3, 0, 12, 11, 5)
ICC_ASGI1R_EL1: Final = SysReg(3, 0, 12, 11, 6)
ICC_SGI0R_EL1: Final = SysReg(3, 0, 12, 11, 7)
ICC_IAR1_EL1: Final = SysReg(3, 0, 12, 12, 0)
ICC_EOIR1_EL1: Final = SysReg(3, 0, 12, 12, 1)
ICC_HPPIR1_EL1: Final = SysReg(3, 0, 12, 12, 2)
ICC_BPR1_EL1: Final = SysReg(3, 0, 12, 12, 3)
ICC_CTLR_EL1: Final = SysReg(3, 0, 12, 12, 4)
ICC_SRE_EL1: Final = SysReg(3, 0, 12, 12, 5)
ICC_IGRPEN0_EL1: Final = SysReg(3, 0, 12, 12, 6)
ICC_IGRPEN1_EL1: Final = SysReg(3, 0, 12, 12, 7)
