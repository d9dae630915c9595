# SPDX-License-Identifier: GPL-2.0-or-later
"""The placement ``hypervisor``: a device that allocates the structures and maps them into the guest.

As first posted (KVM_DEV_TYPE_ARM_PV_TIME, v1 of the patches, August 2019). User space says where, and has to
save and restore the contents by attributes, for it does not know them as the guest's memory.
"""

from __future__ import annotations

import ctypes

from pvtime.abi.layout import U64_MAX
from pvtime.abi.pvtime import REGION_ALIGN, STRUCTURE_STRIDE
from pvtime.abi.pvtime_device import PAGE, PvTimeGroup, PvTimePaddr, StateHeader
from pvtime.errors import PvTimeDeviceError, SavedStateError
from pvtime.steal.live_physical_time import MappedLpt
from pvtime.steal.placement import REGION_NAME, Placement, PlacementName
from pvtime.steal.structure import GuestMap, MappedBytes, StraightStructure

__all__ = ["HypervisorPlacement", "PvTimeDevice"]

_U64 = 8
_HEADER = ctypes.sizeof(StateHeader)


class PvTimeDevice:
    """The device, with KVM's way of getting and setting attributes.

    :param guest: the memory map that the device maps its memory into.
    """

    def __init__(self, vcpus: int, guest: GuestMap) -> None:
        self._vcpus = vcpus
        self._guest = guest
        self._base: int | None = None
        self._structures: MappedBytes | None = None

    def set_attr(self, group: int, attribute: int, value: bytes) -> None:
        """Set an attribute.

        :raises PvTimeDeviceError: the attribute does not exist or is read-only, the base is not page aligned
            or set already, or the state is of another base or number of vCPUs.
        :raises UsageError: the base overlaps another region of the guest's.
        """
        match group, attribute:
            case PvTimeGroup.PADDR, PvTimePaddr.ST:
                self._set_base(_u64(value))
            case PvTimeGroup.STATE, 0:
                self._set_state(value)
            case PvTimeGroup.STATE_SIZE, 0:
                raise PvTimeDeviceError("the size of the state is read-only")
            case _:
                raise PvTimeDeviceError(f"the PV-time device has no attribute {attribute} in group {group}")

    def get_attr(self, group: int, attribute: int) -> bytes:
        """Return an attribute.

        :raises PvTimeDeviceError: the attribute does not exist, or the base has not been set.
        """
        match group, attribute:
            case PvTimeGroup.PADDR, PvTimePaddr.ST:
                return self._mapped()[0].to_bytes(_U64, "little")
            case PvTimeGroup.STATE_SIZE, 0:
                return self._state_size().to_bytes(_U64, "little")
            case PvTimeGroup.STATE, 0:
                base, structures = self._mapped()
                return bytes(StateHeader(base=base, vcpus=self._vcpus)) + bytes(structures.bytes)
        raise PvTimeDeviceError(f"the PV-time device has no attribute {attribute} in group {group}")

    def structure(self, index: int) -> StraightStructure:
        """Return a vCPU's structure.

        :raises PvTimeDeviceError: the base has not been set.
        """
        return StraightStructure(self._guest, self._mapped()[0], index)

    def lpt(self) -> MappedLpt:
        """Return the memory of the structure of Live Physical Time, behind those of the vCPUs.

        :raises PvTimeDeviceError: the base has not been set.
        """
        return MappedLpt(self._guest, self._mapped()[0], straight=True)

    def _set_base(self, base: int) -> None:
        if base % PAGE:
            raise PvTimeDeviceError(f"the base of stolen time {base:#x} is not aligned to {PAGE} bytes")
        if self._base is not None:
            raise PvTimeDeviceError(f"the base of stolen time is {self._base:#x} already")
        self._guest.allocate(base, REGION_ALIGN, REGION_NAME, vmm=False)
        self._structures = self._guest.bind(base, self._vcpus * STRUCTURE_STRIDE)
        self._base = base

    def _set_state(self, value: bytes) -> None:
        base, structures = self._mapped()
        if len(value) != self._state_size():
            raise PvTimeDeviceError(f"the state has {len(value)} bytes and not {self._state_size()}")
        header = StateHeader.from_buffer_copy(value)
        if header.base != base:
            raise PvTimeDeviceError(
                f"the state was saved with its base at {header.base:#x}: the guest knows that address, "
                f"and it cannot be restored at {base:#x}"
            )
        if header.vcpus != self._vcpus:
            raise PvTimeDeviceError(f"the state is of {header.vcpus} vCPUs and not of {self._vcpus}")
        structures.bytes[:] = value[_HEADER:]

    def _state_size(self) -> int:
        return _HEADER + self._vcpus * STRUCTURE_STRIDE

    def _mapped(self) -> tuple[int, MappedBytes]:
        if self._base is None or self._structures is None:
            raise PvTimeDeviceError("the base of stolen time is not set")
        return self._base, self._structures


def _u64(value: bytes) -> int:
    if len(value) != _U64:
        raise PvTimeDeviceError(f"an address has {_U64} bytes and not {len(value)}")
    return int.from_bytes(value, "little")


class HypervisorPlacement(Placement):
    """The hypervisor provides the memory, and stores straight into it.

    :raises PvTimeDeviceError: the base is no address, or not page aligned.
    :raises UsageError: the base overlaps another region.
    """

    name = PlacementName.HYPERVISOR

    def __init__(self, guest: GuestMap, vcpus: int, base: int) -> None:
        self.device = PvTimeDevice(vcpus, guest)
        if not 0 <= base <= U64_MAX:
            raise PvTimeDeviceError(f"the base of stolen time {base:#x} is no address")
        self.device.set_attr(PvTimeGroup.PADDR, PvTimePaddr.ST, base.to_bytes(_U64, "little"))

    def structure(self, index: int) -> StraightStructure:
        return self.device.structure(index)

    def lpt(self) -> MappedLpt:
        return self.device.lpt()

    def own_structure(self, index: int) -> StraightStructure:
        """Return the same: where the kernel is the hypervisor, user space has a mapping of its memory."""
        return self.device.structure(index)

    def state(self) -> bytes:
        return self.device.get_attr(PvTimeGroup.STATE, 0)

    def restore(self, state: bytes) -> None:
        try:
            self.device.set_attr(PvTimeGroup.STATE, 0, state)
        except PvTimeDeviceError as error:
            raise SavedStateError(f"placement: {error}") from error
