# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime who`` on real vCPU threads of the host's own KVM, with causes that the test makes.

The thread that steals is pinned beside the vCPU, which always wants to run. So whatever else runs on this
host, the vCPU waits for as long as that thread runs: the two figures are one, from two sources.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from framework.own_kvm import need_x86_kvm
from framework.traced import (
    ENOUGH_NS,
    Course,
    act,
    check_quota,
    hog,
    is_stopped,
    next_round,
    only,
    ran_ns,
    row_of,
    theft,
    throttling,
)
from framework.wait import wait_until
from pvtime.cli.command import main
from pvtime.host.mounts import debugfs
from pvtime.host.perf import perf_ring
from pvtime.host.tracefs import tracefs
from pvtime.host.vms import HostVm, VmFinder, examine_process
from pvtime.watch.causes import CauseKind
from pvtime.watch.verdict import verdicts
from pvtime.watch.who import WhoSession, clock

TICK_NS = 10_000_000
"""The unit of /proc/stat."""
CPU_V1 = Path("/sys/fs/cgroup/cpu")
SPIN = """
import ctypes, fcntl, mmap, os, struct, sys, time, threading
from pvtime.probe.x86 import CODE, x86_vm
count, cpu = map(int, sys.argv[1:])
def burn(ns):
    os.sched_setaffinity(0, {cpu})
    while time.thread_time_ns() < ns:
        pass
    print(time.thread_time_ns(), flush=True)
def request(fd, number, form, *values):
    fcntl.ioctl(fd, number, bytearray(struct.pack(form, *values)))
def hold(vm):
    # Take the program's page away, and give it back after the next line.
    libc = ctypes.CDLL(None, use_errno=True)
    copy = mmap.mmap(-1, 4096)
    copy[:] = vm.ram.read(CODE, 4096)
    source = ctypes.addressof(ctypes.c_char.from_buffer(copy))
    page = vm.ram.address + CODE
    fd = libc.syscall(323, os.O_CLOEXEC)
    request(fd, 0xc018aa3f, "=QQQ", 0xaa, 0, 0)  # UFFDIO_API
    request(fd, 0xc020aa00, "=QQQQ", page, 4096, 1, 0)  # UFFDIO_REGISTER, for missing pages
    libc.madvise(ctypes.c_void_p(page), 4096, mmap.MADV_DONTNEED)
    sys.stdin.readline()
    request(fd, 0xc028aa03, "=QQQQq", page, source, 4096, 0, 0)  # UFFDIO_COPY
with x86_vm(count) as vm, vm.spinning(cpu, *vm.vcpus):
    print(flush=True)
    for line in sys.stdin:
        if line == "hold\\n":
            hold(vm)
        else:
            threading.Thread(target=burn, args=(int(line),)).start()
"""


@pytest.fixture(scope="module", autouse=True)
def _host() -> None:
    need_x86_kvm()
    if os.geteuid():
        pytest.skip("only root may trace the scheduler")


@cache
def the_cpu() -> int:
    """Return the CPU on which all tests run: one of which it is traced that it stops being idle.

    A kernel was seen that traces nothing of one CPU's idle thread (docs/who.md): a vCPU that came from its
    quota was noticed late.
    """
    cpus = sorted(os.sched_getaffinity(0), reverse=True)
    return next((cpu for cpu in cpus if is_recorded(cpu)), cpus[0])


def is_recorded(cpu: int) -> bool:
    """Whether it is traced that a CPU stops being idle."""
    with tracefs() as system:
        switch = system.tracepoint("sched_switch")
    with perf_ring(cpu, 64, [switch], ("prev_pid", "next_pid")) as ring:
        ring.enable()
        subprocess.run(["taskset", "-c", str(cpu), "sh", "-c", "sleep 0.01; sleep 0.01"], check=True)
        records = ring.drain()
    return all(after[1] == 0 for before, after in itertools.pairwise(records) if before[2] == 0)


class SpinningVm:
    """A VM in another process, whose vCPUs compute on one CPU."""

    def __init__(self, process: subprocess.Popen[bytes], vm: HostVm) -> None:
        self.process = process
        self.vm = vm

    def burn(self, ns: int) -> None:
        """Have a thread of the VMM's compute for so long, on the same CPU."""
        self._command(b"%d\n" % ns)

    def hold_page(self) -> None:
        """Have the vCPU wait for a page of its program."""
        self._command(b"hold\n")

    def give_page(self) -> None:
        """Have the page be given."""
        self._command(b"give\n")

    def _command(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line)
        self.process.stdin.flush()

    def burnt(self) -> int | None:
        """Return how long the thread has run, once it has ended; None: it has not."""
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], 0)
        return int(self.process.stdout.readline()) if readable else None


@contextlib.contextmanager
def vmm(vcpus: int) -> Iterator[SpinningVm]:
    """Have the VM."""
    command = [sys.executable, "-c", SPIN, str(vcpus), str(the_cpu())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline()
            yield SpinningVm(process, wait_until(lambda: found_with_threads(process.pid, vcpus)))
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()


@contextlib.contextmanager
def spinning(vcpus: int) -> Iterator[HostVm]:
    """Have the VM, as the host sees it."""
    with vmm(vcpus) as spinning_vm:
        yield spinning_vm.vm


def found_with_threads(pid: int, vcpus: int) -> HostVm | None:
    """Return the VM once all its vCPUs have threads."""
    vm = examine_process(pid)
    known = vm is not None and sum(vcpu.tid is not None for vcpu in vm.vcpus) == vcpus
    return vm if known else None


def own_steal_ns() -> int:
    """Return the time that this host's own hypervisor took from the CPU, in steps of 10 ms.

    A host that knows its stolen time leaves it out of what a thread ran; to a vCPU that waits, the CPU was
    that thread's.
    """
    (line,) = re.findall(rf"^cpu{the_cpu()} (.*)$", Path("/proc/stat").read_text(), re.M)
    return int(line.split()[7]) * TICK_NS


def test_the_time_that_a_hog_ran_beside_a_vcpu_is_what_it_stole() -> None:
    with spinning(1) as vm, hog(the_cpu()) as thief, WhoSession([vm], VmFinder().find()) as session:
        before, own = ran_ns(thief), own_steal_ns()
        found = Course(session, theft(thief)).run()
        ran = ran_ns(thief) - before
        vcpu = only(found)
        # What was not traced (see tests/unit/watch/test_wait_tracker.py) is said to be unknown.
        unknown = row_of(vcpu, CauseKind.UNKNOWN) + abs(vcpu.missing_ns)
        most = 1.01 * ran + own_steal_ns() - own + TICK_NS + abs(vcpu.missing_ns)
        assert 0.99 * ran - unknown <= row_of(vcpu, CauseKind.PROCESS, thief) <= most, vcpu
        assert vcpu.stopped_ns == 0


def test_a_hog_and_a_thread_of_the_vmm_at_once_are_told_apart() -> None:
    with vmm(1) as own, hog(the_cpu()) as thief, WhoSession([own.vm], VmFinder().find()) as session:
        before, own_before = ran_ns(thief), own_steal_ns()
        burnt: list[int | None] = []
        steps = [
            act(lambda: own.burn(ENOUGH_NS)),
            *theft(thief),
            lambda: burnt.append(own.burnt()) or burnt[-1] is not None,  # type: ignore[func-returns-value]
        ]
        found = Course(session, steps).run()
        ran = {CauseKind.PROCESS: ran_ns(thief) - before, CauseKind.VMM: burnt[-1] or 0}
        vcpu = only(found)
        unknown = row_of(vcpu, CauseKind.UNKNOWN) + abs(vcpu.missing_ns)
        hidden = own_steal_ns() - own_before + TICK_NS + abs(vcpu.missing_ns)
        for kind, pid in ((CauseKind.PROCESS, thief), (CauseKind.VMM, own.vm.pid)):
            assert 0.99 * ran[kind] - unknown <= row_of(vcpu, kind, pid) <= 1.01 * ran[kind] + hidden, vcpu


def test_vcpus_on_one_cpu_steal_from_each_other_what_each_runs() -> None:
    with spinning(2) as vm, WhoSession([vm], VmFinder().find()) as session:
        (found,) = session.run(0.7).vms
    first, second = found.vcpus
    for vcpu, other in ((first, second), (second, first)):
        assert vcpu.ran_ns > 0
        sibling = row_of(vcpu, CauseKind.SIBLING)
        unknown = row_of(vcpu, CauseKind.UNKNOWN) + abs(vcpu.missing_ns)
        # One that neither runs nor waits, for a page or its VMM, is not stolen from while the other runs.
        away = vcpu.elapsed_ns - vcpu.ran_ns - vcpu.stolen_ns
        assert 0.99 * other.ran_ns - unknown - away <= sibling <= 1.01 * other.ran_ns + unknown, str(found)


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


def test_page_faults_of_the_host_are_not_steal_and_are_named() -> None:
    if not os.access("/dev/userfaultfd", os.R_OK):
        pytest.skip("this host has no userfaultfd")
    with vmm(1) as own, WhoSession([own.vm], [own.vm]) as session:
        wchan = Path(f"/proc/{own.vm.pid}/task/{own.vm.vcpus[0].tid}/wchan")
        times: list[int] = []
        steps = [
            act(own.hold_page),
            lambda: wchan.read_text() == "handle_userfault",
            next_round(),  # now it was looked at
            act(lambda: times.append(clock())),
            lambda: clock() - times[0] >= ENOUGH_NS,
            act(lambda: times.append(clock())),
            next_round(),
            act(own.give_page),
            lambda: wchan.read_text() == "0",
        ]
        found = Course(session, steps).run()
    vcpu = only(found)
    assert times[1] - times[0] <= vcpu.faults_ns <= vcpu.blocked_ns
    assert verdicts(found)[0].startswith("not steal: the host's page faults kept it for about "), vcpu


@contextlib.contextmanager
def freezer(version: int) -> Iterator[tuple[Path, Callable[[bool], None], Callable[[], bool]]]:
    """Have a cgroup that can be frozen; yield it, how to freeze or thaw it, and whether it is frozen."""
    mounts = Path("/proc/self/mountinfo").read_text()
    kind = r"cgroup \S+ \S*\bfreezer\b" if version == 1 else "cgroup2 "
    found = re.search(rf"(?m)^\S+ \S+ \S+ / (\S+) .* - {kind}", mounts)
    if found is None:
        pytest.skip(f"this host has no cgroup version {version} with a freezer")
    group = Path(found[1]) / f"pvtime-test-{os.getpid()}"
    group.mkdir()

    def freeze(on: bool) -> None:
        if version == 1:
            group.joinpath("freezer.state").write_text("FROZEN" if on else "THAWED")
        else:
            group.joinpath("cgroup.freeze").write_text(str(int(on)))

    def is_frozen() -> bool:
        if version == 1:
            return group.joinpath("freezer.state").read_text() == "FROZEN\n"
        return "frozen 1" in group.joinpath("cgroup.events").read_text()

    try:
        yield group, freeze, is_frozen
    finally:
        freeze(False)
        wait_until(lambda: not group.joinpath("cgroup.procs").read_text())
        group.rmdir()


@pytest.mark.parametrize("version", [1, 2])
def test_a_frozen_vm_is_not_stolen_from_and_the_verdict_says_how_it_was_stopped(version: int) -> None:
    with freezer(version) as (group, freeze, is_frozen), spinning(1) as vm:
        group.joinpath("cgroup.procs").write_text(str(vm.pid))
        times: list[int] = []
        with WhoSession([vm], [vm]) as session:
            steps = [
                act(lambda: freeze(True)),
                is_frozen,
                next_round(),  # the session has seen it
                act(lambda: times.append(clock())),
                lambda: clock() - times[0] >= ENOUGH_NS,
                act(lambda: times.append(clock())),
                next_round(2),  # and has seen it in a whole round after that
                act(lambda: freeze(False)),
            ]
            found = Course(session, steps).run()
        assert only(found).stopped_ns >= times[1] - times[0]
        assert verdicts(found)[0].startswith("not steal: the VM was frozen by its cgroup for ")


def test_a_vm_that_ends_meanwhile_has_its_figures_until_then() -> None:
    with vmm(1) as own, WhoSession([own.vm], [own.vm]) as session:
        steps = [act(own.process.kill), lambda: session.all_ended()]
        found = Course(session, steps).run()
    assert found.ended
    assert verdicts(found)[0] == "it ended meanwhile, or one of its vCPUs did"
    only(found)


def test_the_time_of_a_quota_is_what_the_cgroup_counts() -> None:
    if not CPU_V1.joinpath("cgroup.procs").exists():
        pytest.skip("this host has no cgroup version 1 with the controller cpu")
    group = CPU_V1 / f"pvtime-test-{os.getpid()}"
    group.mkdir()
    try:
        with spinning(1) as vm:
            group.joinpath("cpu.cfs_quota_us").write_text("5000")
            group.joinpath("tasks").write_text(str(vm.vcpus[0].tid))  # no other thread is throttled
            with WhoSession([vm], VmFinder().find()) as session:
                steps, counted = throttling(lambda: throttled(group))
                found = Course(session, steps).run()
            check_quota(found, counted)
    finally:
        wait_until(lambda: not group.joinpath("cgroup.procs").read_text())
        group.rmdir()


def throttled(group: Path) -> int:
    """Return a cgroup's throttled_time, in ns."""
    return int(group.joinpath("cpu.stat").read_text().split("throttled_time ")[1].split()[0])


def test_tracing_leaves_no_mount_and_no_event_behind() -> None:
    debugfs()  # the process keeps it from its first use on
    before = Path("/proc/self/mountinfo").read_text(), len(os.listdir("/proc/self/fd"))
    with spinning(1) as vm, WhoSession([vm], [vm]) as session:
        session.run(0.05)
        assert Path("/proc/self/mountinfo").read_text() == before[0]
    assert (Path("/proc/self/mountinfo").read_text(), len(os.listdir("/proc/self/fd"))) == before


def test_the_commands_see_the_vm(capsys: pytest.CaptureFixture[str]) -> None:
    with spinning(1) as vm:
        assert main(["top", "--json", "--count", "2", "--interval", "0.1"]) == 0
        for line in capsys.readouterr().out.splitlines():
            assert vm.pid in [one["pid"] for one in json.loads(line)["vms"]]
        assert main(["who", str(vm.pid), "--duration", "0.3"]) == 0
        out, err = capsys.readouterr()
        assert f"(process {vm.pid})" in out
        assert "=> " in out
        assert err == ""
        assert main(["who", str(vm.pid), "--duration", "0.1", "--json"]) == 0
        (one,) = json.loads(capsys.readouterr().out)["vms"]
        assert one["pid"] == vm.pid
