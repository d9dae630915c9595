# SPDX-License-Identifier: GPL-2.0-or-later
"""Examination of a machine as a host: whether guests on its KVM can have stolen time."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pvtime.abi.kvm import KvmCap
from pvtime.abi.kvm_device import DeviceType
from pvtime.abi.kvm_types import VcpuFeature
from pvtime.doctor.finding import HealthFinding, bad, good, neutral
from pvtime.engine.kvm.system import DEVICE, X86, Kvm
from pvtime.engine.kvm.vm_fd import VmFd
from pvtime.errors import EngineError

__all__ = ["examine_host"]

GICS: Final = {"GICv3": DeviceType.VGIC_V3, "GICv2": DeviceType.VGIC_V2}

SCHEDSTAT: Final = Path("/proc/thread-self/schedstat")


def examine_host(device: str = DEVICE, schedstat: Path = SCHEDSTAT) -> list[HealthFinding]:
    """Examine the architecture, the scheduler's statistics and, on arm64, KVM."""
    return [*_architecture(), *_schedstat(schedstat), *_kvm(device)]


def _architecture() -> Iterator[HealthFinding]:
    machine = platform.machine()
    if machine == "aarch64":
        yield good("architecture", "This is an arm64 host.")
    else:
        yield bad(
            "architecture",
            f"This host is {machine}: arm64 guests run on the unicorn engine or in pvtime lab, not on KVM.",
        )


def _schedstat(path: Path) -> Iterator[HealthFinding]:
    try:
        fields = path.read_text().split()
    except OSError as error:
        yield bad(
            "schedstat",
            f"{path} cannot be read ({error.strerror}): no run_delay without CONFIG_SCHED_INFO.",
        )
        return
    # The first field is the time that this thread has run: 0 means that nothing is counted.
    if len(fields) == 3 and int(fields[0]) > 0:
        yield good("schedstat", "The scheduler counts the time that threads run and wait (run_delay).")
    else:
        yield bad("schedstat", f"{path} counts nothing: stolen time would stay 0.")


def _kvm(device: str) -> Iterator[HealthFinding]:
    if platform.machine() != "aarch64":
        state = "does not exist"
        if Path(device).exists():
            state = "exists, but for guests of this architecture"
            if platform.machine() == X86:
                state += ": pvtime cost and pvtime scenario x86 use it"
        yield neutral("/dev/kvm", f"{device} {state}.")
        return
    try:
        with Kvm(device) as kvm:
            yield good("/dev/kvm", f"{device} exists and this user may use it.")
            yield from _capabilities(kvm)
    except EngineError as error:
        yield bad("/dev/kvm", f"KVM cannot be used: {error}.")


def _capabilities(kvm: Kvm) -> Iterator[HealthFinding]:
    if kvm.check(KvmCap.STEAL_TIME):
        yield good("KVM_CAP_STEAL_TIME", "KVM reports that it can give guests their stolen time.")
    else:
        sentence = "KVM reports no stolen time: this is Linux before 5.10, or has no scheduler statistics."
        yield bad("KVM_CAP_STEAL_TIME", sentence)
    limit = kvm.check(KvmCap.ARM_VM_IPA_SIZE) or 40
    yield neutral("IPA size", f"Guest physical addresses may have up to {limit} bits.")
    vm = kvm.create_vm()
    try:
        yield _attribute(vm)
        yield _gics(vm)
    finally:
        vm.close()


def _attribute(vm: VmFd) -> HealthFinding:
    vcpu = vm.create_vcpu(0)
    try:
        vcpu.init(vm.preferred_target(), VcpuFeature.PSCI_0_2)
        if vcpu.has_stolen_time:
            return good("PV-time attribute", "A vCPU accepts the address of a stolen-time structure.")
        return bad(
            "PV-time attribute",
            "A vCPU accepts no address of a stolen-time structure: guests get no stolen time.",
        )
    finally:
        vcpu.close()


def _gics(vm: VmFd) -> HealthFinding:
    versions = [name for name, kind in GICS.items() if vm.can_create(kind)]
    if versions:
        return neutral("GIC", f"Guests can have a {' or a '.join(versions)}.")
    return bad("GIC", "KVM has no interrupt controller for guests: pvtime cannot run any.")
