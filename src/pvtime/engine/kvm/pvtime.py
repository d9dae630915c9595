# SPDX-License-Identifier: GPL-2.0-or-later
"""Stolen time in the kernel: where each vCPU's structure is.

Source: the kernel's Documentation/virt/kvm/devices/vcpu.rst, section 3.
"""

from __future__ import annotations

import errno

from pvtime.abi.kvm_device import PvTimeAttr, VcpuGroup
from pvtime.engine.kvm.ioctl import KvmError
from pvtime.engine.kvm.vcpu import Vcpu
from pvtime.errors import EngineError

__all__ = ["UNSET", "StolenTimeIpas", "has_stolen_time"]

UNSET = (1 << 64) - 1
"""What the attribute holds before it is set."""


def has_stolen_time(vcpu: Vcpu) -> bool:
    """Return whether KVM keeps stolen time for the vCPU: it knows how, and the host has schedstat."""
    return vcpu.has(VcpuGroup.PVTIME_CTRL, PvTimeAttr.IPA)


class StolenTimeIpas:
    """Gives each vCPU of a VM its structure.

    KVM accepts one address for two vCPUs, which then overwrite each other's count; here it is refused.
    """

    def __init__(self) -> None:
        self._owners: dict[int, int] = {}

    def set(self, vcpu: Vcpu, ipa: int) -> None:
        """Tell KVM where the vCPU's structure is.

        :raises EngineError: another vCPU has that address, or this host's KVM has no stolen time.
        :raises KvmError: EINVAL: not 64-byte aligned, or in no writable memory slot; EEXIST: it has one
            already.
        """
        if (owner := self._owners.get(ipa)) is not None and owner != vcpu.index:
            raise EngineError(
                f"vCPU {vcpu.index} cannot have its stolen time at {ipa:#x}: vCPU {owner} has it there"
            )
        try:
            vcpu.set_u64(VcpuGroup.PVTIME_CTRL, PvTimeAttr.IPA, ipa)
        except KvmError as error:
            if error.errno == errno.ENXIO:
                raise EngineError(
                    "this host's KVM has no stolen time: "
                    "it takes Linux 5.10 or later with scheduler statistics (CONFIG_SCHED_INFO)"
                ) from error
            raise
        self._owners[ipa] = vcpu.index
