# SPDX-License-Identifier: GPL-2.0-or-later
"""Stolen time in this host's KVM, seen from outside of any guest: all ways to ask, which must agree."""

from __future__ import annotations

import platform

from pvtime.abi.kvm import KvmCap, KvmIoctl
from pvtime.engine.kvm.ioctl import call
from pvtime.engine.kvm.system import ARM64, Kvm
from pvtime.errors import EngineError
from pvtime.judge.console import CheckResult, Verdict

__all__ = ["NAME", "check_host_kvm", "judge_answers"]

NAME = "host_kvm"


def check_host_kvm() -> CheckResult | None:
    """Ask for KVM_CAP_STEAL_TIME and the vCPU attribute; None: no arm64 host, or no KVM to ask."""
    if platform.machine() != ARM64:
        return None
    try:
        with Kvm() as kvm:
            system = bool(kvm.check(KvmCap.STEAL_TIME))
            vm = kvm.create_vm()
            try:
                of_vm = bool(call(vm.fd, KvmIoctl.CHECK_EXTENSION, int(KvmCap.STEAL_TIME), "STEAL_TIME"))
                vcpu = vm.create_vcpu(0)
                try:
                    attribute = vcpu.has_stolen_time
                finally:
                    vcpu.close()
            finally:
                vm.close()
    except EngineError:
        return None
    return judge_answers(system=system, vm=of_vm, attribute=attribute)


def judge_answers(*, system: bool, vm: bool, attribute: bool) -> CheckResult:
    """Return the verdict on the answers of /dev/kvm, of a VM, and of a vCPU."""
    answers = {"KVM_CAP_STEAL_TIME of the system": system, "of a VM": vm, "the vCPU's attribute": attribute}
    details = tuple(f"{name}: {'yes' if answer else 'no'}" for name, answer in answers.items())
    if len(set(answers.values())) > 1:
        reason = (
            "KVM's capability and the vCPU's attribute differ: a VMM that trusts the one fails at the other"
        )
        return CheckResult(NAME, Verdict.FAIL, reason, details)
    if not system:
        reason = "this host's KVM has no stolen time (Linux 5.10 or later, CONFIG_SCHED_INFO)"
        return CheckResult(NAME, Verdict.SKIP, reason, details)
    return CheckResult(NAME, Verdict.PASS, "", details)
