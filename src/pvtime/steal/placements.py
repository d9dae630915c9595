# SPDX-License-Identifier: GPL-2.0-or-later
"""The choice of a machine's placement."""

from __future__ import annotations

from pvtime.steal.guest import GuestPlacement
from pvtime.steal.hypervisor import HypervisorPlacement
from pvtime.steal.placement import Placement, PlacementName, UserspacePlacement
from pvtime.steal.structure import GuestMap

__all__ = ["make_placement"]


def make_placement(name: PlacementName, guest: GuestMap, vcpus: int, base: int) -> Placement:
    """Make a machine's placement, with its memory mapped into the guest.

    :param base: IPA of the region for structures, where the guest does not provide them.
    :raises PvTimeDeviceError: the base is not page aligned.
    :raises UsageError: the region overlaps another one.
    """
    match name:
        case PlacementName.USERSPACE:
            return UserspacePlacement(guest, base)
        case PlacementName.HYPERVISOR:
            return HypervisorPlacement(guest, vcpus, base)
        case PlacementName.GUEST:
            return GuestPlacement(guest, vcpus)
