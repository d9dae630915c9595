# SPDX-License-Identifier: GPL-2.0-or-later
"""Attributes of a KVM device, a vCPU or a VM: the same three requests on each."""

from __future__ import annotations

import ctypes
import errno
from enum import IntEnum
from typing import Final

from pvtime.abi.kvm import KvmIoctl
from pvtime.abi.kvm_types import DeviceAttr
from pvtime.engine.kvm.ioctl import KvmError, call, close

__all__ = ["Attributes", "Device"]

NOT_THERE: Final = (errno.ENXIO, errno.ENODEV, errno.ENOTTY, errno.EINVAL, errno.EPERM)
"""How kernels of different ages say that they do not know an attribute."""


class Attributes:
    """What KVM_HAS_, KVM_GET_ and KVM_SET_DEVICE_ATTR work on: ``fd``, called ``name`` in messages."""

    def __init__(self, fd: int, name: str) -> None:
        self.fd = fd
        self.name = name

    def has(self, group: IntEnum, attr: IntEnum) -> bool:
        """Return whether the attribute is there."""
        try:
            self._call(KvmIoctl.HAS_DEVICE_ATTR, group, attr, None)
        except KvmError as error:
            if error.errno in NOT_THERE:
                return False
            raise
        return True

    def get_u64(self, group: IntEnum, attr: int) -> int:
        """Return the attribute's value.

        :raises KvmError: it cannot be had.
        """
        value = ctypes.c_uint64()
        self._call(KvmIoctl.GET_DEVICE_ATTR, group, attr, value)
        return value.value

    def set_u64(self, group: IntEnum, attr: int, value: int) -> None:
        """Set an attribute that is a u64.

        :raises KvmError: KVM refuses the value, or the moment.
        """
        self._call(KvmIoctl.SET_DEVICE_ATTR, group, attr, ctypes.c_uint64(value))

    def get_u32(self, group: IntEnum, attr: int) -> int:
        """Return the value of an attribute that is a u32.

        :raises KvmError: it cannot be had.
        """
        value = ctypes.c_uint32()
        self._call(KvmIoctl.GET_DEVICE_ATTR, group, attr, value)
        return value.value

    def set_u32(self, group: IntEnum, attr: int, value: int) -> None:
        """Set an attribute that is a u32.

        :raises KvmError: KVM refuses the value, or the moment.
        """
        self._call(KvmIoctl.SET_DEVICE_ATTR, group, attr, ctypes.c_uint32(value))

    def command(self, group: IntEnum, attr: IntEnum) -> None:
        """Set an attribute that has no value.

        :raises KvmError: KVM refuses.
        """
        self._call(KvmIoctl.SET_DEVICE_ATTR, group, attr, None)

    def _call(
        self, request: KvmIoctl, group: IntEnum, attr: int, value: ctypes.c_uint64 | ctypes.c_uint32 | None
    ) -> None:
        address = 0 if value is None else ctypes.addressof(value)
        what = f"{self.name}, group {group.name}, attribute {getattr(attr, 'name', attr)}"
        call(self.fd, request, DeviceAttr(group=group, attr=attr, addr=address), what)


class Device(Attributes):
    """A device that the kernel emulates, as KVM_CREATE_DEVICE made it."""

    def close(self) -> None:
        """Give the descriptor back; the device stays as long as its VM."""
        close(self.fd)
