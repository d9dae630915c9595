# SPDX-License-Identifier: GPL-2.0-or-later
"""Construction of ioctl numbers (the kernel's include/uapi/asm-generic/ioctl.h, for arm64 and x86)."""

from __future__ import annotations

import ctypes
from typing import Any

from pvtime.abi.layout import Field, Register

__all__ = ["IoctlNumber", "Structure", "io", "ior", "iow", "iowr"]

Structure = type[ctypes.Structure] | type["ctypes._SimpleCData[Any]"]

_WRITE = 1
_READ = 2


class IoctlNumber(Register):
    """The request argument of ioctl(2)."""

    direction = Field(31, 30)
    """As user space sees it: bit 0 it writes the argument, bit 1 it reads it back."""
    size = Field(29, 16)
    """Bytes of the argument."""
    type = Field(15, 8)
    """The owner's letter; 0xAE is KVM's (include/uapi/linux/kvm.h)."""
    number = Field(7, 0)


KVMIO = 0xAE


def io(number: int) -> int:
    """Return a KVM request whose argument is a number or nothing."""
    return int(IoctlNumber.of(type=KVMIO, number=number))


def ior(number: int, argument: Structure) -> int:
    """Return a KVM request that fills ``argument``."""
    return _of(_READ, number, argument)


def iow(number: int, argument: Structure) -> int:
    """Return a KVM request that takes ``argument``."""
    return _of(_WRITE, number, argument)


def iowr(number: int, argument: Structure) -> int:
    """Return a KVM request that takes and changes ``argument``."""
    return _of(_READ | _WRITE, number, argument)


def _of(direction: int, number: int, argument: Structure) -> int:
    size = ctypes.sizeof(argument)
    return int(IoctlNumber.of(direction=direction, size=size, type=KVMIO, number=number))
