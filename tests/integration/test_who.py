# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime who`` on real vCPU threads of the host's own KVM, with causes that the test makes.

The thread that steals is pinned beside the vCPU, which always wants to run. So whatever else runs on this
host, the vCPU waits for as long as that thread runs: the two figures are one, from two sources.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from framework.own_kvm import need_x86_kvm
from framework.wait import wait_until
from pvtime.host.process import thread_state
from pvtime.host.vms import HostVm, VmFinder, examine_process
from pvtime.watch.verdict import verdicts
from pvtime.watch.who import CauseKind, VcpuCauses, VmCauses, WhoSession, clock

ENOUGH_NS = 400_000_000
CPU_V1 = Path("/sys/fs/cgroup/cpu")

SPIN = """
import sys, time
from pvtime.probe.x86 import x86_vm
count, cpu = map(int, sys.argv[1:])
with x86_vm(count) as vm, vm.spinning(cpu, *vm.vcpus):
    print(flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module", autouse=True)
def _host() -> None:
    need_x86_kvm()
    if os.geteuid():
        pytest.skip("only root may trace the scheduler")


@contextlib.contextmanager
def spinning(vcpus: int) -> Iterator[HostVm]:
    """Have a VM in another process, whose vCPUs compute on one CPU."""
    command = [sys.executable, "-c", SPIN, str(vcpus), str(max(os.sched_getaffinity(0)))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline()
            yield wait_until(lambda: found_with_threads(process.pid, vcpus))
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()


def found_with_threads(pid: int, vcpus: int) -> HostVm | None:
    """Return the VM once all its vCPUs have threads."""
    vm = examine_process(pid)
    known = vm is not None and sum(vcpu.tid is not None for vcpu in vm.vcpus) == vcpus
    return vm if known else None


@contextlib.contextmanager
def hog() -> Iterator[int]:
    """Have a stopped process that computes beside the vCPUs when it is continued."""
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", "while True: pass"]) as process:
        process.send_signal(signal.SIGSTOP)
        os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0))})
        try:
            wait_until(lambda: is_stopped(process.pid))
            yield process.pid
        finally:
            process.kill()


def is_stopped(pid: int, tid: int | None = None) -> bool:
    """Whether a thread of a process, by default its first, is stopped."""
    state = thread_state(f"/proc/{pid}/task/{tid or pid}")
    return state is not None and state.stopped


def ran_ns(pid: int) -> int:
    """Return how long a process's first thread has run."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0])


@dataclass
class Course:
    """Steps of a test while it is traced: each begins when the one before has happened."""

    session: WhoSession
    steps: list[Callable[[], bool]]
    _rounds: int = field(default=0)

    def run(self) -> VmCauses:
        """Return what was found, from before the first step until after the last."""
        (found,) = self.session.run(600, self._done).vms
        return found

    def _done(self) -> bool:
        self._rounds += 1
        if not self.session.window_began:
            return False
        while self.steps and self.steps[0]():
            del self.steps[0]
        return not self.steps


def act(action: Callable[[], object]) -> Callable[[], bool]:
    """Return a step that does something, once."""

    def step() -> bool:
        action()
        return True

    return step


def only(found: VmCauses) -> VcpuCauses:
    """Return the VM's only vCPU, with its figures checked: rows and columns sum."""
    (vcpu,) = found.vcpus
    assert sum(row.ns for row in vcpu.rows) == vcpu.stolen_ns
    assert vcpu.ran_ns + vcpu.stolen_ns + vcpu.blocked_ns + vcpu.stopped_ns == vcpu.elapsed_ns
    return vcpu


def row_of(vcpu: VcpuCauses, kind: CauseKind, pid: int | None = None) -> int:
    """Return a cause's time."""
    return sum(row.ns for row in vcpu.rows if row.kind is kind and pid in (None, row.pid))


def test_the_time_that_a_hog_ran_beside_a_vcpu_is_what_it_stole() -> None:
    with spinning(1) as vm, hog() as thief, WhoSession([vm], VmFinder().find()) as session:
        before = ran_ns(thief)
        steps = [
            act(lambda: os.kill(thief, signal.SIGCONT)),
            lambda: ran_ns(thief) - before >= ENOUGH_NS,
            act(lambda: os.kill(thief, signal.SIGSTOP)),
            lambda: is_stopped(thief),
        ]
        found = Course(session, steps).run()
        ran = ran_ns(thief) - before
        vcpu = only(found)
        # What perf dropped (see tests/unit/watch/test_waits.py) is said to be unknown.
        unknown = row_of(vcpu, CauseKind.UNKNOWN)
        assert 0.99 * ran - unknown <= row_of(vcpu, CauseKind.PROCESS, thief) <= 1.01 * ran, vcpu
        assert vcpu.stopped_ns == 0


def test_vcpus_on_one_cpu_steal_from_each_other_what_each_runs() -> None:
    with spinning(2) as vm, WhoSession([vm], VmFinder().find()) as session:
        (found,) = session.run(0.7).vms
    first, second = found.vcpus
    for vcpu, other in ((first, second), (second, first)):
        assert vcpu.ran_ns > 0
        sibling, unknown = row_of(vcpu, CauseKind.SIBLING), row_of(vcpu, CauseKind.UNKNOWN)
        assert 0.99 * other.ran_ns - unknown <= sibling <= 1.01 * other.ran_ns, found


def test_a_stopped_vm_is_not_stolen_from_and_the_verdict_says_so() -> None:
    with spinning(1) as vm, WhoSession([vm], [vm]) as session:
        times: list[int] = []
        steps = [
            act(lambda: os.kill(vm.pid, signal.SIGSTOP)),
            lambda: is_stopped(vm.pid, vm.vcpus[0].tid),
            act(lambda: times.append(clock())),
            lambda: clock() - times[0] >= ENOUGH_NS,
            act(lambda: times.append(clock())),
            act(lambda: os.kill(vm.pid, signal.SIGCONT)),
        ]
        found = Course(session, steps).run()
    assert only(found).stopped_ns >= times[1] - times[0]
    assert verdicts(found)[0].startswith("not steal: the VM was stopped for ")


def test_the_time_of_a_quota_is_what_the_cgroup_counts() -> None:
    if not CPU_V1.joinpath("cgroup.procs").exists():
        pytest.skip("this host has no cgroup version 1 with the controller cpu")
    group = CPU_V1 / f"pvtime-test-{os.getpid()}"
    group.mkdir()
    try:
        with spinning(1) as vm:
            group.joinpath("cpu.cfs_quota_us").write_text("2000")
            group.joinpath("cgroup.procs").write_text(str(vm.pid))
            with WhoSession([vm], VmFinder().find()) as session:
                counted: list[int] = []
                steps = [
                    act(lambda: counted.append(throttled(group))),
                    lambda: throttled(group) - counted[0] >= 2 * ENOUGH_NS,
                    act(lambda: counted.append(throttled(group))),
                ]
                found = Course(session, steps).run()
            vcpu = only(found)
            quota = row_of(vcpu, CauseKind.QUOTA)
            # One more throttling may have begun before the window, and one that ends after it.
            assert counted[1] - counted[0] - 100_000_000 <= quota <= vcpu.stolen_ns, vcpu
            assert verdicts(found)[0].startswith("its own quota of CPU time: "), vcpu
    finally:
        wait_until(lambda: not group.joinpath("cgroup.procs").read_text())
        group.rmdir()


def throttled(group: Path) -> int:
    """Return a cgroup's throttled_time, in ns."""
    return int(group.joinpath("cpu.stat").read_text().split("throttled_time ")[1].split()[0])
