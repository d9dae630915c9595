# SPDX-License-Identifier: GPL-2.0-or-later
"""Round trips on arm64 KVM: two vCPUs of one VM that store to an address without memory.

KVM raises KVM_REQ_RECORD_STEAL at each load of a vCPU that has the address of a structure
(kvm_arch_vcpu_load), and kvm_update_stolen_time answers it before the entry. The address is set once and for
good, so both kinds of blocks have a vCPU each; the rounds before it is set show what the two differ in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from pvtime.abi.kvm_run import ExitReason
from pvtime.abi.kvm_types import VcpuFeature
from pvtime.abi.pvtime import StolenTime
from pvtime.engine.kvm.system import DEVICE, Kvm
from pvtime.engine.kvm.vcpu_fd import VcpuFd
from pvtime.engine.kvm.vm_fd import VmFd
from pvtime.errors import EngineError, UsageError
from pvtime.machine.layout import CONSOLE, RAM_BASE, STOLEN_TIME, Region
from pvtime.machine.memory import GuestMemory
from pvtime.probe.assembler import Program

__all__ = ["Arm64RoundTrips", "arm64_round_trips"]

RAM: Final = Region("RAM", RAM_BASE, 1 << 16)
NO_MEMORY: Final = CONSOLE.base
"""Address that the guest stores to."""


class Arm64RoundTrips:
    """The vCPUs of a VM: one that never has stolen time, and one that gets it."""

    exit_name = "MMIO"

    def __init__(self, vm: VmFd, structures: GuestMemory, without: VcpuFd, with_: VcpuFd) -> None:
        self._vm = vm
        self._structures = structures
        self._vcpus = {False: without, True: with_}

    def enable(self) -> None:
        self._vm.set_stolen_time(self._vcpus[True], STOLEN_TIME.base)

    def select(self, counted: bool) -> int:
        return self._vcpus[counted].fd

    def check_exit(self, counted: bool) -> None:
        vcpu = self._vcpus[counted]
        if vcpu.kvm_run.exit_reason != ExitReason.MMIO:
            raise EngineError(f"{vcpu.describe_exit()}: this host's KVM cannot run it")

    def updates(self) -> None:
        return None

    def stolen_ns(self) -> int:
        return self._structures.load_u64(STOLEN_TIME.base + StolenTime.stolen_time.offset)


def _leave() -> bytes:
    """Return a program that leaves again and again."""
    return Program(RAM_BASE).mov(1, NO_MEMORY).label("leave").store(0, 1).b("leave").assemble()


@contextlib.contextmanager
def arm64_round_trips(device: str = DEVICE) -> Iterator[Arm64RoundTrips]:
    """Make a VM.

    :raises UsageError: this host has no arm64 KVM, this user may not use it, or it has no stolen time.
    """
    with contextlib.ExitStack() as stack:
        try:
            kvm = stack.enter_context(Kvm(device))
            kvm.refuse_without_stolen_time()
            memory, structures = (GuestMemory(each.base, each.size, each.name) for each in (RAM, STOLEN_TIME))
            vm = kvm.create_vm()
            stack.callback(vm.close)
            for each in (memory, structures):
                stack.callback(each.close)
                vm.set_memory(each.region, each.address)
            memory.write(RAM_BASE, _leave())
            vcpus = []
            for index in range(2):
                vcpu = vm.create_vcpu(index)
                stack.callback(vcpu.close)
                vcpu.init(vm.preferred_target(), VcpuFeature.PSCI_0_2)
                vcpu.park(RAM_BASE)
                vcpus.append(vcpu)
        except EngineError as error:
            raise UsageError(str(error)) from error
        yield Arm64RoundTrips(vm, structures, *vcpus)
