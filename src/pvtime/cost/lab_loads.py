# SPDX-License-Identifier: GPL-2.0-or-later
"""Loads of vCPUs on an arm64 host's KVM, one for each entry: the half of a measurement that runs in the lab.

A vCPU's guest is a loop of one store to an address without memory, so that each KVM_RUN is one load, one
update of the structure, one entry and one exit to user space. The vCPUs have no interrupt controller and one
thread runs them all, so that there can be as many as KVM has (512).

Between two configurations the process calls getsid(2), which nothing else does there: the observer outside
has a breakpoint on it (:mod:`pvtime.cost.lab_steps`).
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

from pvtime.abi.kvm_reg import PC, x
from pvtime.abi.pvtime import STRUCTURE_STRIDE
from pvtime.abi.registration import RegisterCall
from pvtime.abi.smccc import Smccc
from pvtime.engine.kvm.pvtime_fd import PvTimeFd
from pvtime.engine.kvm.system import Kvm
from pvtime.engine.kvm.vm_fd import VmFd
from pvtime.machine.layout import CONSOLE, RAM_BASE, STOLEN_TIME, Region
from pvtime.machine.memory import GuestMemory
from pvtime.probe.assembler import Program
from pvtime.steal.placement import PlacementName

__all__ = ["LoadSetup", "main", "run_loads"]

SLOT: Final = 0x1_0000
"""Bytes of a memory slot: the largest page of an arm64 host."""

FILES: Final = 4096
"""Descriptors that the process may have."""

METHOD: Final = Path("/sys/module/pvtime_kvm/parameters/method")

MORE_SLOTS: Final = 0x8000_0000
"""IPA of the slots that are there to be searched; every second one of that size is left out."""


@dataclass(frozen=True)
class LoadSetup:
    """A VM whose vCPU 0 is loaded over and over."""

    vcpus: int = 1
    slots: int = 2
    """Memory slots, at least 2: the guest's code, and the structures."""
    dirty_log: bool = False
    """The writes to the structures are logged, as during a migration."""
    two_slots: bool = False
    """vCPU 1, with its structure in the last slot, is loaded in turn with vCPU 0: so each update finds that
    KVM's last lookup was of the other slot."""
    placement: str = PlacementName.USERSPACE.value
    """Provider of the structures; all but user space need pvtime's kernel module."""
    method: str = ""
    """The module's way to update structures of user space, see pvtime/kmod/README.md; "": no module."""
    loads: int = 4
    """Loads of each vCPU that are observed, at least: while the observer steps, time passes, and the thread
    is preempted."""

    def encode(self) -> str:
        """Return it as an argument of a command."""
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> Self:
        """Read such an argument."""
        return cls(**json.loads(text))


def _guest() -> bytes:
    """Return a guest that makes a call, with what is in X0 and X1, and then stores to a device for ever."""
    program = Program(RAM_BASE).hvc().mov(0, CONSOLE.base)
    return program.label("again").store(1, 0).b("again").assemble()


def _memory(vm: VmFd, stack: contextlib.ExitStack, region: Region) -> tuple[GuestMemory, int]:
    """Give the guest memory; return it with its slot."""
    memory = GuestMemory(region.base, region.size, region.name)
    stack.callback(memory.close)
    return memory, vm.set_memory(memory.region, memory.address)


def _structures(vm: VmFd, stack: contextlib.ExitStack, setup: LoadSetup) -> tuple[list[int], GuestMemory]:
    """Make the slots; return the address of each vCPU's structure, and the memory of all."""
    code, _ = _memory(vm, stack, Region("code", RAM_BASE, SLOT))
    code.write(RAM_BASE, _guest())
    memory, structures = _memory(vm, stack, STOLEN_TIME)
    more = [MORE_SLOTS + 2 * SLOT * index for index in range(setup.slots - 2)]
    for base in more:
        _memory(vm, stack, Region(f"slot at {base:#x}", base, SLOT))
    if setup.dirty_log:
        vm.log_writes(structures, True)
    addresses = [STOLEN_TIME.base + index * STRUCTURE_STRIDE for index in range(setup.vcpus)]
    if setup.two_slots:
        addresses[1] = more[-1]
    return addresses, memory


def run_loads(setup: LoadSetup) -> None:
    """Make the VM, load each vCPU twice, and then vCPU 0 between two calls of getsid(2)."""
    with contextlib.ExitStack() as stack:
        kvm = stack.enter_context(Kvm())
        vm = kvm.create_vm()
        stack.callback(vm.close)
        addresses, structures = _structures(vm, stack, setup)
        guest_provides = setup.placement == PlacementName.GUEST.value
        device = None
        if setup.placement != PlacementName.USERSPACE.value:
            device = PvTimeFd(None if guest_provides else structures)
            stack.callback(device.close)
        if setup.method:
            METHOD.write_text(setup.method)
        vcpus = []
        for index, address in enumerate(addresses):
            vcpu = vm.create_vcpu(index)
            stack.callback(vcpu.close)
            vcpu.init(vm.preferred_target())
            if device is None:
                vm.set_stolen_time(vcpu, address)
            elif guest_provides:
                device.attach_guest(vcpu)
            else:
                device.attach(vcpu, address)
            vcpu.set_reg(PC, RAM_BASE)
            vcpu.set_reg(x(0), RegisterCall.SET if guest_provides else Smccc.VERSION)
            vcpu.set_reg(x(1), address | 1)
            vcpus.append(vcpu)
        for vcpu in (*vcpus, *vcpus):
            vcpu.enter()
        os.getsid(0)
        for _ in range(setup.loads):
            for vcpu in vcpus[: 2 if setup.two_slots else 1]:
                vcpu.enter()
        os.getsid(0)


def main(arguments: list[str]) -> None:
    """Run the setups that the arguments describe, in turn."""
    # A vCPU takes two descriptors, its own and its mapping's.
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    for argument in arguments:
        run_loads(LoadSetup.decode(argument))


if __name__ == "__main__":
    main(sys.argv[1:])
