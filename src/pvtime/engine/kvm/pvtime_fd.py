# SPDX-License-Identifier: GPL-2.0-or-later
"""/dev/pvtime: the placements that KVM on arm64 does not have, where pvtime's kernel module is loaded.

Approach 1 of the thread: the kernel allocates the structures and stores straight into them. User space maps
the memory for a memory slot, and to save and restore its contents. Approach 3: the guest registers addresses
in its own memory. The module is loaded in the lab alone (pvtime lab --module).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from typing import Final

from pvtime.abi.pvtime_kmod import (
    ATTACH,
    DEVICE,
    REGION,
    REGISTERED,
    AttachPlacement,
    PvTimeAttach,
    PvTimeRegistered,
    UpdateSample,
)
from pvtime.abi.registration import Registration
from pvtime.engine.kvm.ioctl import close
from pvtime.engine.kvm.vcpu_fd import VcpuFd
from pvtime.errors import EngineError, host_reason
from pvtime.machine.memory import GuestMemory

__all__ = ["PvTimeFd", "RegisteredCalls", "is_loaded", "read_samples"]

_READ: Final = 1 << 16
"""Bytes of a read, whole samples."""

_HINTS: Final = {
    errno.EEXIST: "its stolen time has an address already",
    errno.EINVAL: "no structure can be there",
}


def is_loaded() -> bool:
    """Whether the module is loaded into this host's kernel."""
    return os.path.exists(DEVICE)


class PvTimeFd:
    """The module's part in one VM.

    :param memory: the structures' memory, where the kernel provides it: from here to :meth:`close` its pages
        are the kernel's.
    :raises EngineError: the module is not loaded, or this user may not use it.
    :raises GuestMemoryError: its memory cannot be mapped.
    """

    def __init__(self, memory: GuestMemory | None = None) -> None:
        try:
            self._fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise EngineError(f"{DEVICE} cannot be opened: {host_reason(error)}") from error
        self._memory = memory
        if memory is not None:
            assert memory.size == REGION, "it has as many bytes"
            try:
                memory.map_file(self._fd)
            except BaseException:
                close(self._fd)
                raise

    def attach(self, vcpu: VcpuFd, ipa: int) -> None:
        """Have the kernel store the vCPU's stolen time at ``ipa``, which is in its own memory.

        :raises EngineError: the module refuses.
        """
        assert self._memory is not None, "the kernel provides it"
        offset = ipa - self._memory.base
        argument = PvTimeAttach(vcpu.fd, AttachPlacement.HYPERVISOR, ipa, offset)
        self._call(ATTACH, argument, f"stolen time of {vcpu.name} at {ipa:#x}")

    def attach_guest(self, vcpu: VcpuFd) -> None:
        """Have the kernel store the vCPU's stolen time where the guest registers an address for it.

        :raises EngineError: the module refuses.
        """
        argument = PvTimeAttach(vcpu.fd, AttachPlacement.GUEST)
        self._call(ATTACH, argument, f"stolen time of {vcpu.name} in the guest's memory")

    def registered(self, vcpu: VcpuFd) -> PvTimeRegistered:
        """Return what the guest has registered; waits while another thread runs the vCPU."""
        argument = PvTimeRegistered(vcpu.fd)
        self._call(REGISTERED, argument, f"a look at what {vcpu.name} has registered")
        return argument

    def restore(self, vcpu: VcpuFd, registration: int) -> None:
        """Have the kernel go on with a structure that the guest had registered when it was saved.

        :raises EngineError: no structure can be there.
        """
        argument = PvTimeRegistered(vcpu.fd, restore=1, registration=registration)
        self._call(REGISTERED, argument, f"stolen time of {vcpu.name} at {registration & ~1:#x}")

    def close(self) -> None:
        """Give the kernel's pages back; the memory keeps their contents."""
        if self._memory is not None:
            self._memory.unmap_file()
        close(self._fd)

    def _call(self, request: int, argument: PvTimeAttach | PvTimeRegistered, about: str) -> None:
        try:
            fcntl.ioctl(self._fd, request, argument)
        except OSError as error:
            reason = _HINTS.get(error.errno or 0) or host_reason(error)
            raise EngineError(f"{DEVICE} refuses {about}: {reason}") from error


class RegisteredCalls:
    """The guest's registrations, as the module tells them: no mark is needed in the guest's memory."""

    def __init__(self, device: PvTimeFd, vcpu: VcpuFd) -> None:
        self._device = device
        self._vcpu = vcpu
        self._taken = 0

    def registration(self) -> Registration:
        """Return what the guest has registered."""
        return Registration(self._device.registered(self._vcpu).registration)

    def pending(self, _growth: int, *, exact: bool) -> int:
        """Return how many there have been since the last :meth:`take`."""
        return int(self._device.registered(self._vcpu).starts) - self._taken

    def take(self, earliest: int, latest: int) -> int:
        """Note them; return the vCPU's run_delay at the last one."""
        registered = self._device.registered(self._vcpu)
        self._taken = int(registered.starts)
        return int(registered.run_delay)

    def measured(self) -> None:
        """See :meth:`~pvtime.steal.kvm_truth.StartCalls.measured`: the module tells all."""

    def restore(self, *, enabled: bool) -> None:
        """See :meth:`~pvtime.steal.kvm_truth.StartCalls.restore`: the module is told."""


def read_samples() -> list[UpdateSample]:
    """Take the module's measurements, the oldest first.

    :raises OSError: the module is not loaded, or this user may not use it.
    """
    with open(DEVICE, "rb", buffering=0) as device:
        data = b"".join(iter(lambda: device.read(_READ), b""))
    size = ctypes.sizeof(UpdateSample)
    return [UpdateSample.from_buffer_copy(data, offset) for offset in range(0, len(data), size)]
