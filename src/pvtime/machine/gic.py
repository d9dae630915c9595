# SPDX-License-Identifier: GPL-2.0-or-later
"""The choice of the interrupt controller: GICv2 or GICv3."""

from __future__ import annotations

from enum import Enum

from pvtime.errors import UsageError
from pvtime.machine.layout import MAX_GICV2_VCPUS

__all__ = ["GicVersion", "check_gicv2", "choose_emulated"]


class GicVersion(Enum):
    """The version that a user asks for."""

    AUTO = "auto"
    """The engine's choice."""
    V2 = "v2"
    V3 = "v3"


def check_gicv2(vcpus: int) -> None:
    """Check that a GICv2 has an interface for each vCPU.

    :raises UsageError: it has not.
    """
    if vcpus > MAX_GICV2_VCPUS:
        raise UsageError(f"{vcpus} vCPUs: a GICv2 has {MAX_GICV2_VCPUS} at most; take a GICv3, or fewer")


def choose_emulated(asked: GicVersion, vcpus: int) -> GicVersion:
    """Return the version that an emulated machine has: GICv2 where it can, whose registers are cheaper.

    :raises UsageError: a GICv2 is asked for, and there are too many vCPUs for one.
    """
    if asked is GicVersion.AUTO:
        return GicVersion.V2 if vcpus <= MAX_GICV2_VCPUS else GicVersion.V3
    if asked is GicVersion.V2:
        check_gicv2(vcpus)
    return asked
