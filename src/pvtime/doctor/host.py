# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine as a host: whether guests on its KVM can have stolen time."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pvtime.abi.kvm import KvmCap
from pvtime.abi.kvm_device import DeviceType
from pvtime.abi.kvm_types import VcpuFeature
from pvtime.doctor.finding import Finding, Health
from pvtime.engine.kvm.pvtime import has_stolen_time
from pvtime.engine.kvm.system import DEVICE, System
from pvtime.engine.kvm.vm import Vm
from pvtime.errors import EngineError

__all__ = ["examine_host"]

GICS: Final = {"GICv3": DeviceType.VGIC_V3, "GICv2": DeviceType.VGIC_V2}

SCHEDSTAT: Final = Path("/proc/thread-self/schedstat")


def examine_host(device: str = DEVICE) -> list[Finding]:
    """Look at the architecture, the scheduler's statistics and, on arm64, KVM."""
    return [*_architecture(), *_schedstat(), *_kvm(device)]


def _architecture() -> Iterator[Finding]:
    machine = platform.machine()
    if machine == "aarch64":
        yield Finding("architecture", Health.GOOD, "This is an arm64 host.")
    else:
        yield Finding(
            "architecture",
            Health.BAD,
            f"This host is {machine}: arm64 guests run on the unicorn engine or in pvtime lab, not on KVM.",
        )


def _schedstat() -> Iterator[Finding]:
    try:
        fields = SCHEDSTAT.read_text().split()
    except OSError as error:
        yield Finding(
            "schedstat",
            Health.BAD,
            f"{SCHEDSTAT} cannot be read ({error.strerror}): no run_delay without CONFIG_SCHED_INFO.",
        )
        return
    # The first field is the time that this very thread has run: 0 means that nothing is counted.
    if len(fields) == 3 and int(fields[0]) > 0:
        yield Finding("schedstat", Health.GOOD, "The scheduler counts what threads run and wait (run_delay).")
    else:
        yield Finding("schedstat", Health.BAD, f"{SCHEDSTAT} counts nothing: stolen time would stay 0.")


def _kvm(device: str) -> Iterator[Finding]:
    if platform.machine() != "aarch64":
        there = "is there, but for guests of this architecture" if Path(device).exists() else "is not there"
        yield Finding("/dev/kvm", Health.NEUTRAL, f"{device} {there}.")
        return
    try:
        with System(device) as system:
            yield Finding("/dev/kvm", Health.GOOD, f"{device} is there and may be used.")
            yield from _capabilities(system)
    except EngineError as error:
        yield Finding("/dev/kvm", Health.BAD, f"KVM cannot be used: {error}.")


def _capabilities(system: System) -> Iterator[Finding]:
    if system.check(KvmCap.STEAL_TIME):
        yield Finding(
            "KVM_CAP_STEAL_TIME", Health.GOOD, "KVM says that it can tell guests their stolen time."
        )
    else:
        sentence = "KVM says that it cannot: Linux before 5.10, or no scheduler statistics."
        yield Finding("KVM_CAP_STEAL_TIME", Health.BAD, sentence)
    limit = system.check(KvmCap.ARM_VM_IPA_SIZE) or 40
    yield Finding("IPA size", Health.NEUTRAL, f"Guest physical addresses may have up to {limit} bits.")
    vm = system.create_vm()
    try:
        yield _attribute(vm)
        yield _gics(vm)
    finally:
        vm.close()


def _attribute(vm: Vm) -> Finding:
    vcpu = vm.create_vcpu(0)
    try:
        vcpu.init(vm.preferred_target(), VcpuFeature.PSCI_0_2)
        if has_stolen_time(vcpu):
            return Finding("PV-time attribute", Health.GOOD, "A vCPU takes the address of its structure.")
        return Finding(
            "PV-time attribute",
            Health.BAD,
            "A vCPU takes no address of a structure: guests get no stolen time.",
        )
    finally:
        vcpu.close()


def _gics(vm: Vm) -> Finding:
    versions = [name for name, kind in GICS.items() if vm.can_create(kind)]
    if versions:
        return Finding("GIC", Health.NEUTRAL, f"Guests can have a {' or a '.join(versions)}.")
    return Finding("GIC", Health.BAD, "KVM has no interrupt controller for guests: pvtime cannot run them.")
