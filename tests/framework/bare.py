# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM on /dev/kvm without an engine: memory, structures' memory and vCPUs, for what KVM itself answers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from pvtime.abi.kvm_reg import PC
from pvtime.abi.kvm_run import ExitReason
from pvtime.abi.kvm_types import VcpuFeature
from pvtime.engine.kvm.system import Kvm
from pvtime.engine.kvm.vcpu_fd import VcpuFd
from pvtime.engine.kvm.vm_fd import VmFd
from pvtime.machine.layout import RAM_BASE, STOLEN_TIME
from pvtime.machine.memory import GuestMemory
from pvtime.probe.assembler import Program

__all__ = ["RESULTS", "BareVm", "bare_vm"]

SIZE = 1 << 20
RESULTS = RAM_BASE + SIZE // 2
"""Address of the 64-bit words that a program stores."""


@dataclass
class BareVm:
    """A VM without an engine, its memories and its vCPUs."""

    vm: VmFd
    memory: GuestMemory
    structures: GuestMemory
    vcpus: list[VcpuFd]

    def run(self, program: Program) -> None:
        """Run a program on vCPU 0, on this thread, until it powers off."""
        vcpu = self.vcpus[0]
        self.memory.write(RAM_BASE, program.assemble())
        vcpu.stopped = False  # the end of an earlier program has stopped it
        vcpu.set_reg(PC, RAM_BASE)
        vcpu.enter()
        assert vcpu.kvm_run.exit_reason == ExitReason.SYSTEM_EVENT, vcpu.describe_exit()

    def result(self, slot: int) -> int:
        """Return what the program has stored there."""
        return self.memory.load_u64(RESULTS + 8 * slot)


@contextlib.contextmanager
def bare_vm(vcpus: int = 2) -> Iterator[BareVm]:
    """Make a VM whose vCPUs have no stolen time yet."""
    with contextlib.ExitStack() as stack:
        kvm = stack.enter_context(Kvm())
        memory = GuestMemory(RAM_BASE, SIZE, "RAM")
        structures = GuestMemory(STOLEN_TIME.base, STOLEN_TIME.size, STOLEN_TIME.name)
        for each in (memory, structures):
            stack.callback(each.close)
        vm = kvm.create_vm()
        stack.callback(vm.close)
        for each in (memory, structures):
            vm.set_memory(each.region, each.address)
        made = []
        for index in range(vcpus):
            made.append(vm.create_vcpu(index))
            stack.callback(made[-1].close)
            made[-1].init(vm.preferred_target(), VcpuFeature.PSCI_0_2)
        yield BareVm(vm, memory, structures, made)
