# SPDX-License-Identifier: GPL-2.0-or-later
"""/dev/kvm: the version and the capabilities of this host's KVM, and the VMs made from it."""

from __future__ import annotations

import os
import platform
from types import TracebackType
from typing import Final, Self

from pvtime.abi.kvm import API_VERSION, KvmCap, KvmIoctl
from pvtime.abi.kvm_types import IpaSize
from pvtime.engine.kvm.ioctl import KvmError, call, close
from pvtime.engine.kvm.vm_fd import VmFd
from pvtime.errors import EngineError, UsageError

__all__ = ["ARM64", "DEVICE", "REQUIRED", "X86", "Kvm"]

DEVICE: Final = "/dev/kvm"

ARM64: Final = "aarch64"
X86: Final = "x86_64"

USES: Final = {
    ARM64: "the kvm engine needs an arm64 host",
    X86: "x86's stolen time needs an x86_64 host",
}
OTHERWISE: Final = {
    ARM64: "use the unicorn engine, or run pvtime in pvtime lab",
    X86: "for arm64's use pvtime scenario with another name",
}
"""Advice for a host of another architecture."""

REQUIRED: Final = {
    KvmCap.ONE_REG: "registers by identifier",
    KvmCap.DEVICE_CTRL: "an interrupt controller in the kernel",
    KvmCap.ARM_PSCI_0_2: "PSCI 0.2",
    KvmCap.VCPU_ATTRIBUTES: "vCPU attributes",
    KvmCap.IMMEDIATE_EXIT: "immediate_exit",
}
"""Capabilities without which the engine does not run. Stolen time is refused where an address is set."""


class Kvm:
    """An open /dev/kvm.

    :param machine: architecture that the host must have, as uname(1) names it.
    :raises EngineError: the host has none, or not for that architecture, or this user may not use it.
    """

    def __init__(self, path: str = DEVICE, machine: str = ARM64) -> None:
        if platform.machine() != machine:
            raise EngineError(f"{USES[machine]} and this one is {platform.machine()}: {OTHERWISE[machine]}")
        try:
            self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise KvmError(path, error.errno or 0) from error
        version = call(self.fd, KvmIoctl.GET_API_VERSION)
        if version != API_VERSION:
            self.close()
            raise EngineError(f"{path} has API version {version}; pvtime knows {API_VERSION}, which is final")

    def __enter__(self) -> Self:
        """Return the open device."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the device."""
        self.close()

    def check(self, capability: KvmCap) -> int:
        """Return the answer to KVM_CHECK_EXTENSION: 0 is no."""
        return call(self.fd, KvmIoctl.CHECK_EXTENSION, int(capability), capability.name)

    def refuse_incapable(self) -> None:
        """Check that KVM has all that the engine needs.

        :raises EngineError: something is missing; the message names it.
        """
        for capability, meaning in REQUIRED.items():
            if not self.check(capability):
                raise EngineError(f"this host's KVM lacks KVM_CAP_{capability.name} ({meaning})")

    def check_vcpus(self, vcpus: int) -> None:
        """Check that a VM can have so many vCPUs.

        :raises UsageError: it cannot.
        """
        limit = self.check(KvmCap.MAX_VCPUS)
        if vcpus > limit:
            raise UsageError(f"{vcpus} vCPUs: this host's KVM has {limit} at most; give 1 to {limit}")

    def refuse_without_stolen_time(self) -> None:
        """Check that KVM can count the stolen time of a vCPU.

        :raises EngineError: it cannot.
        """
        if not self.check(KvmCap.STEAL_TIME):
            raise EngineError(
                "this host's KVM has no stolen time: "
                "it takes Linux 5.10 or later with scheduler statistics (CONFIG_SCHED_INFO)"
            )

    def create_vm(self, ipa_bits: int = 0) -> VmFd:
        """Create a VM whose guest physical addresses have ``ipa_bits`` bits; 0: 40, or the host's limit if
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
        return VmFd(fd, self.vcpu_map_size(), self.check(KvmCap.COALESCED_MMIO))

    def vcpu_map_size(self) -> int:
        """Return the size of a vCPU's mapping, in bytes."""
        return call(self.fd, KvmIoctl.GET_VCPU_MMAP_SIZE)

    def close(self) -> None:
        """Close the descriptor; VMs made from it stay."""
        close(self.fd)
        self.fd = -1
