# SPDX-License-Identifier: GPL-2.0-or-later
"""Interrupt specifiers in a device tree (the kernel's Documentation/devicetree/bindings, dt-bindings)."""

from __future__ import annotations

from enum import IntEnum

from pvtime.abi.layout import Field, Register

__all__ = ["InterruptFlags", "InterruptKind", "Trigger"]


class InterruptKind(IntEnum):
    """First cell: interrupt-controller/arm-gic.h."""

    SPI = 0
    """Second cell counts from 0 and is INTID 32 on."""
    PPI = 1
    """Second cell counts from 0 and is INTID 16 on."""


class Trigger(IntEnum):
    """Trigger type of an interrupt: interrupt-controller/irq.h."""

    EDGE_RISING = 1
    EDGE_FALLING = 2
    LEVEL_HIGH = 4
    LEVEL_LOW = 8


class InterruptFlags(Register):
    """Third cell."""

    cpus = Field(15, 8)
    """GICv2 PPIs only: the CPUs that have the interrupt, one bit each."""
    trigger = Field(3, 0)
