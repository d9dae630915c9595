# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime who`` on two VMs of QEMU's on KVM: a hog beside one of them is named, and so is its quota."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from framework.traced import Course, act, check_quota, check_sums, hog, ran_ns, row_of, theft, throttling
from framework.wait import wait_until
from pvtime.host.process import thread_state
from pvtime.host.vms import HostVm, VmFinder, examine_process
from pvtime.probe.affinity import last_cpu, one_cpu
from pvtime.watch.causes import CauseKind, VcpuCauses, VmCauses
from pvtime.watch.sampler import LITTLE, Cause, HostSample, HostSampler, VcpuInterval
from pvtime.watch.verdict import verdicts
from pvtime.watch.who import WhoSession

PROGRAM = "qemu-system-aarch64"
CPU = last_cpu()
"""All vCPUs and the hog are here."""
SPIN = bytes.fromhex("00000014")
"""``b .``"""


@contextlib.contextmanager
def qemu(name: str, image: Path, *options: str) -> Iterator[int]:
    """Have a VM whose guest computes for ever; yield its process."""
    command = [
        PROGRAM,
        "-M",
        "virt,gic-version=3",
        "-accel",
        "kvm",
        "-cpu",
        "host",
        "-m",
        "64",
        "-nodefaults",
    ]
    command += ["-display", "none", "-name", f"{name},debug-threads=on", "-kernel", str(image), *options]
    # From the first on: a vCPU's thread that QEMU had made before it was moved stayed on both CPUs.
    with one_cpu():
        process = subprocess.Popen(command)
    with process:
        try:
            yield process.pid
        finally:
            process.kill()


@pytest.fixture(scope="module")
def vms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[HostVm, HostVm]]:
    """Return one VM that computes and one whose vCPU sleeps; nothing else of this test's is on their CPU."""
    if shutil.which(PROGRAM) is None:
        pytest.skip(f"{PROGRAM} is not in this lab")
    image = tmp_path_factory.mktemp("qemu") / "image"
    image.write_bytes(SPIN)
    before = os.sched_getaffinity(0)
    with qemu("web1", image) as first, qemu("web2", image, "-S") as second:
        os.sched_setaffinity(0, before - {CPU})
        yield wait_until(lambda: computing(first)), wait_until(lambda: started(second))
    os.sched_setaffinity(0, before)


def started(pid: int) -> HostVm | None:
    """Return a VM once its vCPU has a thread."""
    vm = examine_process(pid)
    return vm if vm is not None and vm.vcpus[0].tid is not None else None


def computing(pid: int) -> HostVm | None:
    """Return a VM once its vCPU has computed for 50 ms without a sleep."""
    vm = started(pid)
    if vm is None or vm.vcpus[0].tid is None:
        return None
    tid = vm.vcpus[0].tid
    end = ran_ns(tid) + 50_000_000
    while (now := ran_ns(tid)) < end:
        state = thread_state(f"/proc/{tid}")
        if state is None or state.state != "R":
            return None
    return vm if now >= end else None


def traced(course: Course) -> tuple[VmCauses, VmCauses]:
    """Return what was found of both VMs."""
    first, second = course.run_all()
    for vm in (first, second):
        check_sums(vm.vcpus[0])
    return first, second


def vcpu_runs_on(vm: HostVm) -> Callable[[], bool]:
    """Return the step that ends when the first vCPU has been on a CPU since it began."""
    (tid,) = (vcpu.tid for vcpu in vm.vcpus)
    assert tid is not None
    begun: list[int] = []

    def step() -> bool:
        now = ran_ns(tid)
        begun[:] = begun or [now]
        return now > begun[0]

    return step


def not_told(vcpu: VcpuCauses) -> int:
    """Return the time of which the command itself says that it does not know it, or that it slept."""
    return row_of(vcpu, CauseKind.UNKNOWN) + abs(vcpu.missing_ns) + vcpu.blocked_ns


def test_the_vcpu_that_suffers_is_seen_and_the_hog_is_named_with_its_seconds(
    vms: tuple[HostVm, HostVm],
) -> None:
    with contextlib.closing(HostSampler()) as sampler, hog(CPU) as thief:

        def theft_of_the_most() -> tuple[VmCauses, dict[str, VcpuInterval]] | None:
            """Return what was seen of a theft; nothing where the rest took more, or there was little of it.

            This host is emulated: where one of its CPUs stands still, whoever was on it has taken the time.
            """
            before = ran_ns(thief)
            samples: list[HostSample] = []
            sample = act(lambda: samples.append(sampler.sample()))
            with WhoSession(vms, VmFinder().find()) as session:
                # A sample has a wait that has ended: the vCPU runs again before the second one.
                steps = [sample, *theft(thief), vcpu_runs_on(vms[0]), sample]
                busy, quiet = traced(Course(session, steps))
                seen = {vm.vm.name: vm.vcpus[0] for vm in samples[-1].vms}
                ran = ran_ns(thief) - before
            (vcpu,) = busy.vcpus
            stolen = row_of(vcpu, CauseKind.PROCESS, thief)
            assert 0.99 * ran - not_told(vcpu) <= stolen <= vcpu.stolen_ns, vcpu
            # Beside it, the kernel's threads and those of the two VMMs are on this CPU, and no others.
            rest = (
                row_of(vcpu, CauseKind.KERNEL)
                + row_of(vcpu, CauseKind.VMM)
                + row_of(vcpu, CauseKind.VM, quiet.vm.pid)
            )
            assert stolen >= 0.99 * (vcpu.stolen_ns - rest) - not_told(vcpu), vcpu
            assert quiet.stolen_ns <= quiet.vcpus[0].elapsed_ns - quiet.vcpus[0].blocked_ns
            assert seen["web1"].stolen_ns >= 0.99 * ran - not_told(vcpu), (seen, vcpu)
            others = vcpu.stolen_ns - stolen + quiet.stolen_ns + not_told(vcpu)
            return (busy, seen) if stolen > max(others, 2 * LITTLE * vcpu.elapsed_ns) else None

        busy, seen = wait_until(theft_of_the_most)
    assert verdicts(busy)[0].startswith(f"neighbour: python3 (process {thief}): "), busy
    assert seen["web1"].stolen_ns > seen["web2"].stolen_ns
    assert seen["web1"].cause is Cause.OTHERS


@contextlib.contextmanager
def quota_v2(pid: int) -> Iterator[Path]:
    """Have a process run for a tenth of the time by a quota of cgroup version 2; yield its cgroup."""
    with contextlib.ExitStack() as stack:
        root = Path("/sys/fs/cgroup")
        subprocess.run(["mount", "-t", "cgroup2", "cgroup2", root], check=True)
        stack.callback(lambda: subprocess.run(["umount", root], check=True))
        root.joinpath("cgroup.subtree_control").write_text("+cpu")
        group = root / "vms"
        group.mkdir()
        stack.callback(group.rmdir)
        group.joinpath("cpu.max").write_text("10000 100000")
        group.joinpath("cgroup.procs").write_text(str(pid))
        stack.callback(root.joinpath("cgroup.procs").write_text, str(pid))
        yield group


def test_the_time_of_a_quota_of_version_2_is_what_the_cgroup_counts(vms: tuple[HostVm, HostVm]) -> None:
    with quota_v2(vms[0].pid) as group:

        def throttled() -> int:
            return 1000 * int(group.joinpath("cpu.stat").read_text().split("throttled_usec ")[1].split()[0])

        with WhoSession(vms, VmFinder().find()) as session:
            steps, counted = throttling(throttled)
            busy, _ = traced(Course(session, steps))
    check_quota(busy, counted)
