# SPDX-License-Identifier: GPL-2.0-or-later
"""The SMC Calling Convention (Arm DEN0028): function identifiers and return codes."""

from __future__ import annotations

from enum import IntEnum

from pvtime.abi.layout import Field, Register

__all__ = ["NOT_SUPPORTED", "SUCCESS", "VERSION_1_1", "FunctionId", "Smccc"]

SUCCESS = 0
NOT_SUPPORTED = -1

VERSION_1_1 = 0x1_0001
"""KVM's result of SMCCC_VERSION (arch/arm64/kvm/hypercalls.c): major in 30:16, minor in 15:0."""


class FunctionId(Register):
    """W0 of a call (DEN0028 section 2.5)."""

    fast = Field(31)
    smc64 = Field(30)
    owner = Field(29, 24)
    number = Field(15, 0)


class Smccc(IntEnum):
    """Arm Architecture Calls (DEN0028 section 7)."""

    VERSION = 0x8000_0000
    ARCH_FEATURES = 0x8000_0001
