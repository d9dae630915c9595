# SPDX-License-Identifier: GPL-2.0-or-later
"""Registers with a bit or a byte for each interrupt, which distributor and redistributors have alike."""

from __future__ import annotations

from collections.abc import MutableSequence
from typing import Final

from pvtime.abi.gicv2 import Gicd
from pvtime.machine.interrupts import PRIORITY_MASK, Interrupts

__all__ = ["ALL_GROUP1", "WORD", "read_bits", "read_bytes", "write_bits", "write_bytes"]

WORD: Final = 0xFFFF_FFFF

ALL_GROUP1: Final = WORD
"""IGROUPR: every interrupt is in group 1, and stays there. Group 0 would need FIQ, which no CPU here has."""


def read_bits(interrupts: Interrupts, register: int, first: int) -> int:
    """Return the 32 bits from INTID ``first`` on.

    :param register: the offset of the array, one of :class:`Gicd`.
    """
    match register:
        case Gicd.IGROUPR:
            return ALL_GROUP1
        case Gicd.ISENABLER | Gicd.ICENABLER:
            value = interrupts.enabled
        case Gicd.ISPENDR | Gicd.ICPENDR:
            value = interrupts.pending()
        case _:
            value = interrupts.active
    return value >> first & WORD


def write_bits(interrupts: Interrupts, register: int, first: int, value: int) -> None:
    """Set or clear the interrupts of ``value``, from INTID ``first`` on."""
    mask = value << first
    match register:
        case Gicd.ISENABLER:
            interrupts.enabled |= mask
        case Gicd.ICENABLER:
            interrupts.enabled &= ~mask
        case Gicd.ISPENDR:
            interrupts.latched |= mask
        case Gicd.ICPENDR:
            interrupts.latched &= ~mask
        case Gicd.ISACTIVER:
            interrupts.active |= mask
        case Gicd.ICACTIVER:
            interrupts.active &= ~mask


def read_bytes(priorities: MutableSequence[int], intid: int, size: int) -> int:
    """Return the priorities of ``size`` interrupts."""
    return int.from_bytes(priorities[intid : intid + size], "little")


def write_bytes(priorities: MutableSequence[int], intid: int, size: int, value: int) -> None:
    """Set the priorities of ``size`` interrupts, as far as they exist."""
    for index in range(intid, min(intid + size, len(priorities))):
        priorities[index] = value & PRIORITY_MASK
        value >>= 8
