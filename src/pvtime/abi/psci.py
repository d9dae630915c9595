# SPDX-License-Identifier: GPL-2.0-or-later
"""Power State Coordination Interface (Arm DEN0022): function identifiers and return codes."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["VERSION_1_1", "Affinity", "Psci", "PsciReturn", "Tos"]

VERSION_1_1 = 0x1_0001
"""PSCI 1.1: major in 31:16, minor in 15:0."""


class Psci(IntEnum):
    """Function identifiers; those with an SMC64 form carry both."""

    VERSION = 0x8400_0000
    CPU_SUSPEND = 0x8400_0001
    CPU_SUSPEND_64 = 0xC400_0001
    CPU_OFF = 0x8400_0002
    CPU_ON = 0x8400_0003
    CPU_ON_64 = 0xC400_0003
    AFFINITY_INFO = 0x8400_0004
    AFFINITY_INFO_64 = 0xC400_0004
    MIGRATE_INFO_TYPE = 0x8400_0006
    SYSTEM_OFF = 0x8400_0008
    SYSTEM_RESET = 0x8400_0009
    FEATURES = 0x8400_000A
    SYSTEM_RESET2 = 0x8400_0012
    SYSTEM_RESET2_64 = 0xC400_0012


class PsciReturn(IntEnum):
    """Return codes (DEN0022 section 5.2.2)."""

    SUCCESS = 0
    NOT_SUPPORTED = -1
    INVALID_PARAMETERS = -2
    DENIED = -3
    ALREADY_ON = -4
    ON_PENDING = -5
    INTERNAL_FAILURE = -6


class Affinity(IntEnum):
    """Results of AFFINITY_INFO."""

    ON = 0
    OFF = 1
    ON_PENDING = 2


class Tos(IntEnum):
    """Results of MIGRATE_INFO_TYPE: the kind of trusted OS."""

    MP_OR_NONE = 2
