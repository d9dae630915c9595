# SPDX-License-Identifier: GPL-2.0-or-later
"""Placements: who provides the memory that stolen time is written to.

A machine has one. It owns who maps the memory, who writes it, and what of it a saved machine must hold.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import Enum
from typing import ClassVar, Final

from pvtime.abi.pvtime import REGION_ALIGN
from pvtime.steal.live_physical_time import LptMemory, MappedLpt
from pvtime.steal.structure import CheckedStructure, GuestMap, Structure, VmmStructure

__all__ = ["MAX_PLACEMENT_STATE", "REGION_NAME", "Placement", "PlacementName", "UserspacePlacement"]

REGION_NAME = "stolen time"

MAX_PLACEMENT_STATE: Final = 40 << 10
"""Bytes of any placement's state: a header, and a structure for each vCPU."""


class PlacementName(Enum):
    """The three answers to the question who provides the memory."""

    USERSPACE = "userspace"
    """The VMM: merged into Linux 5.5 (commit 58772e9a3db7)."""
    HYPERVISOR = "hypervisor"
    """The hypervisor, behind a device (:mod:`pvtime.steal.hypervisor`): as first posted, in August 2019."""
    GUEST = "guest"
    """The guest registers its own (:mod:`pvtime.steal.guest`): as on x86."""


class Placement(ABC):
    """The memory of one machine's structures."""

    name: ClassVar[PlacementName]

    @abstractmethod
    def structure(self, index: int) -> Structure:
        """Return the structure of vCPU ``index``."""

    @abstractmethod
    def lpt(self) -> LptMemory:
        """Return the memory of the structure of Live Physical Time (never merged)."""

    def state(self) -> bytes | None:
        """Return what a saved machine must hold beside the VMM's own memory; None: nothing."""
        return None

    def restore(self, state: bytes) -> None:
        """Continue from what :meth:`state` returned.

        :raises SavedStateError: it is not the state of such a machine.
        """


class UserspacePlacement(Placement):
    """Host user space provides the memory, and the hypervisor writes through the guest's memory map.

    The guest's memory holds the only copy of the count, so it is saved and migrated with the rest.

    :raises UsageError: the region overlaps another one.
    """

    name = PlacementName.USERSPACE

    def __init__(self, guest: GuestMap, base: int) -> None:
        guest.allocate(base, REGION_ALIGN, REGION_NAME, vmm=True)
        self._guest = guest
        self._base = base

    def structure(self, index: int) -> CheckedStructure:
        return CheckedStructure(self._guest, self._base, index)

    def lpt(self) -> MappedLpt:
        return MappedLpt(self._guest, self._base, straight=False)

    def own_structure(self, index: int) -> VmmStructure:
        """Return the same structure as the VMM has it, where the kernel is the hypervisor."""
        return VmmStructure(self._guest, self._base, index)
