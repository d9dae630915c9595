# SPDX-License-Identifier: GPL-2.0-or-later
"""/dev/kvm: what this host's KVM is and can."""

from __future__ import annotations

import os
import platform
from types import TracebackType
from typing import Final, Self

from pvtime.abi.kvm import API_VERSION, KvmCap, KvmIoctl
from pvtime.abi.kvm_types import IpaSize
from pvtime.engine.kvm.ioctl import KvmError, call, close
from pvtime.engine.kvm.vm import Vm
from pvtime.errors import EngineError

__all__ = ["DEVICE", "NEEDED", "System"]

DEVICE: Final = "/dev/kvm"

NEEDED: Final = {
    KvmCap.ONE_REG: "registers by identifier",
    KvmCap.DEVICE_CTRL: "an interrupt controller in the kernel",
    KvmCap.ARM_PSCI_0_2: "PSCI 0.2",
    KvmCap.VCPU_ATTRIBUTES: "vCPU attributes",
    KvmCap.IMMEDIATE_EXIT: "immediate_exit",
}
"""Without these the engine does not run. KVM_CAP_STEAL_TIME is asked for where stolen time is set up."""


class System:
    """An open /dev/kvm.

    :raises EngineError: it is not there, not permitted, of another version, or not an arm64 host's.
    """

    def __init__(self, path: str = DEVICE) -> None:
        if platform.machine() != "aarch64":
            raise EngineError(
                f"the kvm engine needs an arm64 host and this one is {platform.machine()}: "
                "use the unicorn engine, or run pvtime in pvtime lab"
            )
        try:
            self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise KvmError(path, error.errno or 0) from error
        version = call(self.fd, KvmIoctl.GET_API_VERSION)
        if version != API_VERSION:
            self.close()
            raise EngineError(f"{path} has API version {version}; pvtime knows {API_VERSION}, which is final")

    def __enter__(self) -> Self:
        """It is open already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def check(self, capability: KvmCap) -> int:
        """Return what KVM_CHECK_EXTENSION answers: 0 is no."""
        return call(self.fd, KvmIoctl.CHECK_EXTENSION, int(capability), capability.name)

    def refuse_incapable(self) -> None:
        """Check that KVM has what the engine cannot do without.

        :raises EngineError: something is missing; the message names it.
        """
        for capability, meaning in NEEDED.items():
            if not self.check(capability):
                raise EngineError(f"this host's KVM lacks KVM_CAP_{capability.name} ({meaning})")

    def create_vm(self, ipa_bits: int = 0) -> Vm:
        """Make a VM whose guest physical addresses have ``ipa_bits`` bits; 0: 40, or the host's limit if
        that is less.

        :raises KvmError: KVM refuses; E2BIG and EINVAL mean more bits than the host has.
        """
        limit = self.check(KvmCap.ARM_VM_IPA_SIZE)
        if not ipa_bits and 0 < limit < 40:
            ipa_bits = limit
        fd = call(
            self.fd, KvmIoctl.CREATE_VM, int(IpaSize.of(bits=ipa_bits)), f"{ipa_bits or 40}-bit addresses"
        )
        os.set_inheritable(fd, False)
        return Vm(fd, self.vcpu_map_size(), self.check(KvmCap.COALESCED_MMIO))

    def vcpu_map_size(self) -> int:
        """Return how many bytes of a vCPU's descriptor are to be mapped."""
        return call(self.fd, KvmIoctl.GET_VCPU_MMAP_SIZE)

    def close(self) -> None:
        """Give the descriptor back; VMs made from it go on."""
        close(self.fd)
        self.fd = -1
