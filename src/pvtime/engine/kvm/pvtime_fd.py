# SPDX-License-Identifier: GPL-2.0-or-later
"""/dev/pvtime: stolen time in the kernel's own memory, where pvtime's kernel module is loaded (pvtime lab).

As approach 1 of the thread has it: the kernel allocates the structures and stores straight into them. User
space maps the memory for a memory slot, and to save and restore its contents.
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Final

from pvtime.abi.pvtime_kmod import ATTACH, DEVICE, REGION, AttachPlacement, PvTimeAttach
from pvtime.engine.kvm.ioctl import close
from pvtime.engine.kvm.vcpu_fd import VcpuFd
from pvtime.errors import EngineError, host_reason
from pvtime.machine.memory import GuestMemory

__all__ = ["PvTimeFd", "is_loaded"]

_HINTS: Final = {
    errno.EEXIST: "its stolen time has an address already",
    errno.EBADF: "the module does not know it as a vCPU",
}


def is_loaded() -> bool:
    """Whether the module is loaded into this host's kernel."""
    return os.path.exists(DEVICE)


class PvTimeFd:
    """The structures of one VM, from ``memory``'s base on.

    From here to :meth:`close`, the pages of ``memory`` are the kernel's.

    :raises EngineError: the module is not loaded, or this user may not use it.
    :raises GuestMemoryError: its memory cannot be mapped.
    """

    def __init__(self, memory: GuestMemory) -> None:
        try:
            self._fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise EngineError(f"{DEVICE}: {host_reason(error)}: stolen time of the kernel's own") from error
        assert memory.size == REGION, "it has as many bytes"
        self._memory = memory
        try:
            memory.map_file(self._fd)
        except BaseException:
            close(self._fd)
            raise

    def attach(self, vcpu: VcpuFd, ipa: int) -> None:
        """Have the kernel store the vCPU's stolen time at ``ipa``, which is in the memory.

        :raises EngineError: the module refuses.
        """
        argument = PvTimeAttach(
            vcpu_fd=vcpu.fd,
            placement=AttachPlacement.HYPERVISOR,
            ipa=ipa,
            offset=ipa - self._memory.base,
        )
        try:
            fcntl.ioctl(self._fd, ATTACH, argument)
        except OSError as error:
            reason = _HINTS.get(error.errno or 0) or host_reason(error)
            raise EngineError(f"{DEVICE} refuses stolen time of {vcpu.name} at {ipa:#x}: {reason}") from error

    def close(self) -> None:
        """Give the kernel's pages back; the memory keeps their contents."""
        self._memory.unmap_file()
        close(self._fd)
