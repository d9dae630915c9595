# SPDX-License-Identifier: GPL-2.0-or-later
"""The names of threads that had a CPU: of VMs, of processes, of the kernel, and of those that have ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from framework.fake_proc import FakeProc
from pvtime.host.vms import HostVcpu, HostVm
from pvtime.watch.causes import CauseKind
from pvtime.watch.runner_names import RunnerNames
from pvtime.watch.waits import IDLE, OTHERS, QUOTA, UNKNOWN, Runner

WEB = HostVm(50, 100, "qemu", "web1", (HostVcpu(0, 51), HostVcpu(1, 52)))
DB = HostVm(60, 100, "firecracker", "db", (HostVcpu(0, 61),))


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    """Return a host with two VMs, a process with a thread, and a thread of the kernel's."""
    proc = FakeProc(tmp_path / "proc")
    for tid, tgid, parent in ((51, 50, 1), (53, 50, 1), (61, 60, 1), (71, 70, 1), (14, 14, 2)):
        proc.process(tgid, b"ma\x1bke")
        proc.root.joinpath(str(tid)).mkdir(exist_ok=True)
        proc.root.joinpath(f"{tid}/status").write_text(f"Name:\tx\nTgid:\t{tgid}\nPPid:\t{parent}\n")
    return proc


@pytest.mark.parametrize(
    ("runner", "kind", "name", "pid"),
    [
        ((52, b"CPU 1/KVM"), CauseKind.PROCESS, "CPU 1/KVM (ended)", 52),
        ((51, b"CPU 0/KVM"), CauseKind.SIBLING, "", 50),
        ((53, b"worker"), CauseKind.VMM, "", 50),
        ((61, b"fc_vcpu 0"), CauseKind.VM, "firecracker:db", 60),
        ((71, b"cc1"), CauseKind.PROCESS, "ma\\x1bke", 70),
        ((14, b"ksoftirqd/0\0\0"), CauseKind.KERNEL, "ksoftirqd/0", 14),
        ((99, b"g\x1bone\0junk"), CauseKind.PROCESS, "g\\x1bone (ended)", 99),
        (IDLE, CauseKind.LATENCY, "", None),
        (UNKNOWN, CauseKind.UNKNOWN, "", None),
        (QUOTA, CauseKind.QUOTA, "", None),
        (OTHERS, CauseKind.PROCESS, "many others", None),
    ],
)
def test_a_thread_is_named_by_its_process(
    proc: FakeProc, runner: Runner, kind: CauseKind, name: str, pid: int | None
) -> None:
    names = RunnerNames([WEB, DB], {51: WEB, 52: WEB}, proc.root)
    names.identify(runner)
    row = names.row(runner, WEB, 7)
    assert (row.kind, row.name, row.pid, row.ns) == (kind, name, pid, 7)
