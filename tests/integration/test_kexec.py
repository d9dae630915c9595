# SPDX-License-Identifier: GPL-2.0-or-later
"""kexec for real: Debian's kernel starts itself again, and the second one's stolen time is right again.

Neither placement needs anything of the guest for it.
"""

from __future__ import annotations

import pytest

from framework.linux import TICK_NS
from pvtime.errors import EngineError, ImagesError
from pvtime.images.cache import cache_directory
from pvtime.images.kexec import kexec_archive
from pvtime.images.store import StockImages
from pvtime.machine.image import load_kernel
from pvtime.machine.machine import MachineConfig
from pvtime.scenario.linux_guest import Kernel, linux_guest
from pvtime.scenario.linux_kexec import MIN_STOLEN_NS, KexecRun, explain, run
from pvtime.steal.placement import PlacementName
from pvtime.userland.build import KERNEL_PARAMETERS, build_initramfs
from pvtime.userland.protocol import Ready

VCPUS = 2


@pytest.fixture(
    scope="module", params=[PlacementName.USERSPACE, PlacementName.HYPERVISOR], ids=lambda each: each.value
)
def kexec(stock_images: StockImages, request: pytest.FixtureRequest) -> KexecRun:
    """Debian's kernel, kexec'd into itself."""
    try:
        kexec_archive(cache_directory())
    except ImagesError as error:
        pytest.skip(f"no kexec-tools: {error}")
    return run(vcpus=VCPUS, placement=request.param)


@pytest.fixture(params=["first", "second"])
def kernel(kexec: KexecRun, request: pytest.FixtureRequest) -> Kernel:
    """One of the two kernels."""
    found = getattr(kexec, request.param)
    assert isinstance(found, Kernel)
    return found


def test_both_are_the_same_kernel_and_both_find_stolen_time(kexec: KexecRun) -> None:
    assert kexec.first.release == kexec.second.release
    assert kexec.first.found
    assert kexec.second.found


def test_every_vcpu_of_each_kernel_asks_once_and_then_counts_from_zero(kernel: Kernel) -> None:
    assert [call.vcpu for call in kernel.calls] == list(range(VCPUS))
    assert [(call.after.truth_ns, call.after.structure_ns) for call in kernel.calls] == [(0, 0)] * VCPUS
    assert all(call.after.enabled for call in kernel.calls)


def test_truth_and_structure_are_one_whenever_it_is_looked(kernel: Kernel) -> None:
    seen = [*kernel.end, *(sample for call in kernel.calls for sample in (call.before, call.after))]
    assert [sample.structure_ns for sample in seen] == [sample.truth_ns for sample in seen]


def test_proc_stat_follows_the_structure_in_both_kernels(kernel: Kernel) -> None:
    for sample, steal in zip(kernel.end, kernel.steal_ns, strict=True):
        assert steal is not None, "the CPU is not online"
        assert sample.count_ns > MIN_STOLEN_NS
        # The guest adds what its structure says at a tick, and rounds down: all that was stolen before it was
        # asked to end, and no more than was stolen.
        assert MIN_STOLEN_NS - TICK_NS < steal <= sample.count_ns


def test_nothing_tells_the_hypervisor_of_kexec_which_counts_on_until_the_second_kernel_asks(
    kexec: KexecRun,
) -> None:
    assert not any(call.before.enabled for call in kexec.first.calls)
    for call in kexec.second.calls:
        end = kexec.first.end[call.vcpu]
        assert call.before.enabled, "there was a reset"
        assert call.before.truth_ns >= end.truth_ns, "the count ran backwards"
        assert call.before.loads > end.loads


def test_the_lines_tell_what_the_count_did(kexec: KexecRun) -> None:
    lines = list(explain(kexec))
    for call in kexec.second.calls:
        found = f"{call.before.count_ns / 1e6:.3f} ms"
        said = f"vCPU {call.vcpu}: its PV_TIME_ST found {found} in the structure, and left 0.000 ms"
        assert f"  {said}" in lines


def test_a_guest_without_kexec_says_so_and_goes_on(stock_images: StockImages) -> None:
    userland = build_initramfs(stock_images.busybox)
    config = MachineConfig(
        1, 256 << 20, load_kernel(stock_images.kernel), userland, f"console=ttyS0 quiet {KERNEL_PARAMETERS}"
    )
    with linux_guest(config, {}) as guest:
        guest.wait_for(Ready, "userland")
        with pytest.raises(EngineError, match=r"the guest could not kexec; on its console: .*not found"):
            guest.end_kernel("kexec")
        guest.end_kernel("stop")
        guest.wait_for_power_off()
        assert len(guest.kernels) == 1
