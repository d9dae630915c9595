# SPDX-License-Identifier: GPL-2.0-or-later
"""More vCPUs than a GICv2 has, up to what this host's KVM gives a VM."""

from __future__ import annotations

import pytest

from pvtime.abi.gicv3 import REDISTRIBUTOR_SIZE
from pvtime.abi.kvm import KvmCap
from pvtime.engine.kvm.ioctl import KvmError
from pvtime.engine.kvm.system import Kvm
from pvtime.engine.kvm.vgic import create_vgic, initialise_vgic
from pvtime.errors import UsageError
from pvtime.machine.gic import GicVersion
from pvtime.machine.layout import Region, redistributors


def test_redistributors_can_be_in_two_regions() -> None:
    # A machine has the second one from vCPU 123 on: too many for an emulated host.
    first, more = redistributors(1)[0], redistributors(124)[1]
    with Kvm() as kvm:
        vm = kvm.create_vm()
        try:
            vcpus = [vm.create_vcpu(index) for index in range(2)]
            regions = [
                Region("first", first.base, REDISTRIBUTOR_SIZE),
                Region("more", more.base, REDISTRIBUTOR_SIZE),
            ]
            vgic, _ = create_vgic(vm, GicVersion.V3, regions)
            for vcpu in vcpus:
                vcpu.init(vm.preferred_target())
            initialise_vgic(vgic)
            with pytest.raises(KvmError):
                vm.create_vcpu(2).init(vm.preferred_target())
            vgic.close()
            for vcpu in vcpus:
                vcpu.close()
        finally:
            vm.close()


def test_more_vcpus_than_the_host_gives_a_vm_are_refused_by_its_limit() -> None:
    with Kvm() as kvm:
        limit = kvm.check(KvmCap.MAX_VCPUS)
        assert limit > 8, "it has a GICv3"
        with pytest.raises(UsageError, match=f"{limit + 1} vCPUs: this host's KVM has {limit} at most"):
            kvm.check_vcpus(limit + 1)
        kvm.check_vcpus(limit)
