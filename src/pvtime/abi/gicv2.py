# SPDX-License-Identifier: GPL-2.0-or-later
"""The Generic Interrupt Controller, version 2 (Arm IHI 0048B): registers and interrupt numbers."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from pvtime.abi.layout import Field, Register

__all__ = [
    "NON_SECURE_PENDING",
    "PPI_BASE",
    "SGIS",
    "SPI_BASE",
    "SPURIOUS",
    "CpuIdr",
    "DistributorIdr",
    "Gicc",
    "GiccCtlr",
    "GiccIar",
    "Gicd",
    "GicdCtlr",
    "GicdSgir",
    "GicdTyper",
    "SgiFilter",
]

SGIS: Final = 16
"""Software-generated interrupts are INTID 0 to 15."""
PPI_BASE: Final = 16
"""Private peripheral interrupts are INTID 16 to 31."""
SPI_BASE: Final = 32
"""Shared peripheral interrupts are INTID 32 on."""
NON_SECURE_PENDING: Final = 1022
"""GICC_IAR while only a group 1 interrupt is pending: GICC_AIAR must be read (3.2.5)."""
SPURIOUS: Final = 1023
"""No interrupt to acknowledge."""


class Gicd(IntEnum):
    """Distributor registers (table 4-1): byte offset of each, or of the first of an array."""

    CTLR = 0x000
    TYPER = 0x004
    IIDR = 0x008
    IGROUPR = 0x080
    ISENABLER = 0x100
    ICENABLER = 0x180
    ISPENDR = 0x200
    ICPENDR = 0x280
    ISACTIVER = 0x300
    ICACTIVER = 0x380
    IPRIORITYR = 0x400
    ITARGETSR = 0x800
    ICFGR = 0xC00
    SGIR = 0xF00
    CPENDSGIR = 0xF10
    SPENDSGIR = 0xF20


class Gicc(IntEnum):
    """CPU interface registers (table 4-2): byte offsets."""

    CTLR = 0x0000
    PMR = 0x0004
    BPR = 0x0008
    IAR = 0x000C
    EOIR = 0x0010
    RPR = 0x0014
    HPPIR = 0x0018
    ABPR = 0x001C
    AIAR = 0x0020
    AEOIR = 0x0024
    AHPPIR = 0x0028
    APR0 = 0x00D0
    IIDR = 0x00FC
    DIR = 0x1000


class GicdCtlr(Register):
    """GICD_CTLR, without the Security Extensions."""

    enable_group1 = Field(1)
    enable_group0 = Field(0)


class GicdTyper(Register):
    """GICD_TYPER."""

    cpus = Field(7, 5)
    """CPU interfaces, less one."""
    lines = Field(4, 0)
    """INTIDs in units of 32, less one."""


class SgiFilter(IntEnum):
    """GICD_SGIR.filter: the targets of an SGI."""

    LIST = 0
    OTHERS = 1
    SELF = 2


class GicdSgir(Register):
    """GICD_SGIR."""

    filter = Field(25, 24)
    cpus = Field(23, 16)
    intid = Field(3, 0)


class GiccCtlr(Register):
    """GICC_CTLR, without the Security Extensions."""

    eoi_mode = Field(9)
    """GICC_EOIR only drops the priority; GICC_DIR deactivates."""
    common_bpr = Field(4)
    ack_control = Field(2)
    """GICC_IAR acknowledges group 1 too."""
    enable_group1 = Field(1)
    enable_group0 = Field(0)


class GiccIar(Register):
    """GICC_IAR, GICC_EOIR, GICC_HPPIR, GICC_DIR."""

    cpu = Field(12, 10)
    """The CPU that sent the SGI."""
    intid = Field(9, 0)


class DistributorIdr(Register):
    """GICD_IIDR."""

    product = Field(31, 24)
    revision = Field(15, 12)
    implementer = Field(11, 0)


class CpuIdr(Register):
    """GICC_IIDR."""

    product = Field(31, 20)
    architecture = Field(19, 16)
    revision = Field(15, 12)
    implementer = Field(11, 0)
