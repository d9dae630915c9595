# SPDX-License-Identifier: GPL-2.0-or-later
"""KVM's requests, with errors that say what was asked and what to do."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from typing import Final

from pvtime.abi.kvm import KvmIoctl
from pvtime.errors import EngineError

__all__ = ["KvmError", "call", "close"]

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
    """A request that KVM refused; :attr:`errno` says why."""

    def __init__(self, what: str, number: int) -> None:
        reason = HINTS.get(number, os.strerror(number))
        super().__init__(f"{what}: {errno.errorcode.get(number, number)}: {reason}")
        self.errno = number


def call(
    fd: int,
    request: KvmIoctl,
    argument: ctypes.Structure | ctypes.Array[ctypes.c_uint64] | int = 0,
    what: str = "",
) -> int:
    """Make a request and return its answer; a structure is filled in place.

    Of an argument with a tail, the whole must be given: Python hands a copy of it to the kernel.

    :raises KvmError: KVM refuses. The message names the request, and ``what`` it was about.
    """
    try:
        return fcntl.ioctl(fd, request, argument)
    except OSError as error:
        name = f"KVM_{request.name}" + (f" ({what})" if what else "")
        raise KvmError(name, error.errno or 0) from error


def close(*descriptors: int) -> None:
    """Give descriptors back; -1 stands for one that was never had."""
    for fd in descriptors:
        if fd >= 0:
            os.close(fd)
