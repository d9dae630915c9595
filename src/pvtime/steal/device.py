# SPDX-License-Identifier: GPL-2.0-or-later
"""The placement ``hypervisor``: a device that allocates the structures and maps them into the guest.

As first posted (KVM_DEV_TYPE_ARM_PV_TIME, v1 of the patches, August 2019). User space says where, and has to
save and restore the contents by attributes, for it does not know them as the guest's memory.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Protocol

from pvtime.abi.pvtime import REGION_ALIGN, STRUCTURE_STRIDE
from pvtime.abi.pvtime_device import PAGE, PvTimeGroup, PvTimePaddr, StateHeader
from pvtime.errors import PvTimeDeviceError
from pvtime.steal.placement import Hypervisor, Memory

__all__ = ["Backing", "PvTimeDevice"]

_U64 = 8
_HEADER = ctypes.sizeof(StateHeader)


class Backing(Memory, Protocol):
    """Memory of the hypervisor's own, mapped into the guest."""

    def read(self, ipa: int, length: int) -> bytes:
        """Return a copy of what is there."""


class PvTimeDevice:
    """The device, with KVM's way of getting and setting attributes.

    :param provide: allocates memory of a size in bytes, and maps it into the guest at a base IPA.
    """

    def __init__(self, vcpus: int, provide: Callable[[int, int], Backing]) -> None:
        self._vcpus = vcpus
        self._provide = provide
        self._memory: Backing | None = None

    def set_attr(self, group: int, attribute: int, value: bytes) -> None:
        """Set an attribute.

        :raises PvTimeDeviceError: there is no such attribute, it is read-only, the base is not page aligned
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

        :raises PvTimeDeviceError: there is no such attribute, or no base has been set.
        """
        match group, attribute:
            case PvTimeGroup.PADDR, PvTimePaddr.ST:
                return self._mapped().base.to_bytes(_U64, "little")
            case PvTimeGroup.STATE_SIZE, 0:
                return self._state_size().to_bytes(_U64, "little")
            case PvTimeGroup.STATE, 0:
                memory = self._mapped()
                header = StateHeader(base=memory.base, vcpus=self._vcpus)
                return bytes(header) + memory.read(memory.base, self._vcpus * STRUCTURE_STRIDE)
        raise PvTimeDeviceError(f"the PV-time device has no attribute {attribute} in group {group}")

    def placement(self, index: int) -> Hypervisor:
        """Return a vCPU's structure.

        :raises PvTimeDeviceError: no base has been set.
        """
        return Hypervisor(self._mapped(), index)

    def _set_base(self, base: int) -> None:
        if base % PAGE:
            raise PvTimeDeviceError(f"the base of stolen time {base:#x} is not aligned to {PAGE} bytes")
        if self._memory is not None:
            raise PvTimeDeviceError(f"the base of stolen time is {self._memory.base:#x} already")
        self._memory = self._provide(base, REGION_ALIGN)

    def _set_state(self, value: bytes) -> None:
        memory = self._mapped()
        if len(value) != self._state_size():
            raise PvTimeDeviceError(f"the state has {len(value)} bytes and not {self._state_size()}")
        header = StateHeader.from_buffer_copy(value)
        if header.base != memory.base:
            raise PvTimeDeviceError(
                f"the state was saved with its base at {header.base:#x}: the guest knows that address, "
                f"and it cannot be restored at {memory.base:#x}"
            )
        if header.vcpus != self._vcpus:
            raise PvTimeDeviceError(f"the state is of {header.vcpus} vCPUs and not of {self._vcpus}")
        memory.write(memory.base, value[_HEADER:])

    def _state_size(self) -> int:
        return _HEADER + self._vcpus * STRUCTURE_STRIDE

    def _mapped(self) -> Backing:
        if self._memory is None:
            raise PvTimeDeviceError("the base of stolen time is not set")
        return self._memory


def _u64(value: bytes) -> int:
    if len(value) != _U64:
        raise PvTimeDeviceError(f"an address has {_U64} bytes and not {len(value)}")
    return int.from_bytes(value, "little")
