# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel engineer's own test: pytest --pvtime-kernel arch/arm64/boot/Image test_my_kernel.py."""

import pytest


@pytest.mark.pvtime_guest(vcpus=2, steal="1:40%")
def test_my_kernel_counts_its_stolen_time(guest):
    guest.wait_userland()
    guest.run_for(1)
    vcpu = guest.sample(guest=True).vcpus[1]
    assert vcpu.enabled
    assert vcpu.truth == vcpu.structure
    assert vcpu.guest_steal <= vcpu.stolen
