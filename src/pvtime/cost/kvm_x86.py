# SPDX-License-Identifier: GPL-2.0-or-later
"""Round trips on x86 KVM: a vCPU that halts, whose stolen time is switched on and off.

KVM raises KVM_REQ_STEAL_UPDATE at each load of a vCPU (kvm_arch_vcpu_load), and record_steal_time answers
it before the entry where MSR_KVM_STEAL_TIME is enabled. It is written by KVM_SET_MSRS before a block, so that
both kinds of blocks are of one vCPU and one memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pvtime.engine.kvm.system import DEVICE
from pvtime.errors import EngineError
from pvtime.probe.x86 import STRUCTURES, Entry, X86Vm, x86_vm

__all__ = ["X86RoundTrips", "x86_round_trips"]

DISABLED = 0
ENABLED = STRUCTURES.base | 1
PER_UPDATE = 2
"""The version grows by this with each update."""


class X86RoundTrips:
    """The vCPU with its VM."""

    exit_name = "HLT"

    def __init__(self, vm: X86Vm) -> None:
        self._vm = vm
        self._vcpu = vm.vcpus[0]
        self._vcpu.start_at(Entry.LEAVE)
        self._with = DISABLED

    def enable(self) -> None:
        self._with = ENABLED

    def select(self, counted: bool) -> int:
        value = self._with if counted else DISABLED
        if not self._vcpu.set_msr(value):
            raise EngineError(f"this host's KVM refuses {value:#x} in MSR_KVM_STEAL_TIME")
        return self._vcpu.fd.fd

    def check_exit(self, counted: bool) -> None:
        self._vcpu.check_halted()

    def updates(self) -> int:
        return int(self._vm.structure(STRUCTURES.base).version) // PER_UPDATE

    def stolen_ns(self) -> int:
        return int(self._vm.structure(STRUCTURES.base).steal)


@contextlib.contextmanager
def x86_round_trips(device: str = DEVICE) -> Iterator[X86RoundTrips]:
    """Make a VM.

    :raises UsageError: this host has no x86 KVM, this user may not use it, or it has no stolen time.
    """
    with x86_vm(device=device) as vm:
        yield X86RoundTrips(vm)
