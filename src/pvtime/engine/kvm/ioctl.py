# SPDX-License-Identifier: GPL-2.0-or-later
"""KVM's ioctls, and the device attributes that VMs, vCPUs and devices have in common.

An error names the request, what it was about, and what to do.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from pvtime.abi.kvm import KvmIoctl
from pvtime.abi.kvm_types import DeviceAttr
from pvtime.errors import EngineError

if TYPE_CHECKING:
    from pvtime.abi.kvm_x86 import X86Ioctl

__all__ = ["DeviceAttributes", "DeviceFd", "KvmError", "call", "close"]

UNKNOWN_ATTRIBUTE: Final = (errno.ENXIO, errno.ENODEV, errno.ENOTTY, errno.EINVAL, errno.EPERM)
"""The answers of kernels of different ages to an attribute that they do not know."""

HINTS: Final = {
    errno.EACCES: "the user may not use it: join the group that owns /dev/kvm",
    errno.EPERM: "the user may not use it: join the group that owns /dev/kvm",
    errno.ENOENT: "there is no such file: this host's kernel has no KVM, or it did not start (see dmesg)",
    errno.EBUSY: "it is in use: another hypervisor may have the CPU's virtualization extension",
    errno.ENOMEM: "the host has no memory left for it",
    errno.EMFILE: "too many open files: raise the limit (ulimit -n)",
    errno.ENODEV: "this host has no such device",
    errno.ENXIO: "this host's KVM does not know it",
}


class KvmError(EngineError):
    """A request that KVM refused, for the reason in :attr:`errno`."""

    def __init__(self, what: str, number: int) -> None:
        reason = HINTS.get(number, os.strerror(number))
        super().__init__(f"{what}: {errno.errorcode.get(number, number)}: {reason}")
        self.errno = number


def call(
    fd: int,
    request: KvmIoctl | X86Ioctl,
    argument: ctypes.Structure | ctypes.Array[ctypes.c_uint64] | int = 0,
    about: str = "",
) -> int:
    """Make a request and return its answer; KVM fills a structure in place.

    An argument that ends in an array must be passed whole: Python hands a copy of it to the kernel.

    :raises KvmError: KVM refuses. The message names the request, and what it was ``about``.
    """
    try:
        return fcntl.ioctl(fd, request, argument)
    except OSError as error:
        name = f"KVM_{request.name}" + (f" ({about})" if about else "")
        raise KvmError(name, error.errno or 0) from error


def close(*descriptors: int) -> None:
    """Close descriptors; -1 stands for none."""
    for fd in descriptors:
        if fd >= 0:
            os.close(fd)


class DeviceAttributes:
    """A descriptor with attributes (KVM_HAS_, KVM_GET_ and KVM_SET_DEVICE_ATTR).

    :param name: its name in messages.
    """

    def __init__(self, fd: int, name: str) -> None:
        self.fd = fd
        self.name = name

    def has(self, group: IntEnum, attr: IntEnum) -> bool:
        """Return whether KVM knows the attribute."""
        try:
            self._call(KvmIoctl.HAS_DEVICE_ATTR, group, attr, None)
        except KvmError as error:
            if error.errno in UNKNOWN_ATTRIBUTE:
                return False
            raise
        return True

    def get_u64(self, group: IntEnum, attr: int) -> int:
        """Return the attribute's value.

        :raises KvmError: KVM refuses.
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

        :raises KvmError: KVM refuses.
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
        """Set an attribute without a value.

        :raises KvmError: KVM refuses.
        """
        self._call(KvmIoctl.SET_DEVICE_ATTR, group, attr, None)

    def _call(
        self, request: KvmIoctl, group: IntEnum, attr: int, value: ctypes.c_uint64 | ctypes.c_uint32 | None
    ) -> None:
        address = 0 if value is None else ctypes.addressof(value)
        about = f"{self.name}, group {group.name}, attribute {getattr(attr, 'name', attr)}"
        call(self.fd, request, DeviceAttr(group=group, attr=attr, addr=address), about)


class DeviceFd(DeviceAttributes):
    """A device that the kernel emulates (KVM_CREATE_DEVICE)."""

    def close(self) -> None:
        """Close the descriptor; the device stays as long as its VM."""
        close(self.fd)
