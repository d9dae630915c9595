# SPDX-License-Identifier: GPL-2.0-or-later
"""The vCPU threads of a VMM, found below a process in a made-up /proc."""

from __future__ import annotations

from pathlib import Path

import pytest

from pvtime.judge.vcpu_threads import VcpuThreads, processes_below


def process(proc: Path, pid: int, parent: int, threads: dict[int, str], delay: int = 7) -> None:
    """Add a process."""
    for tid, name in threads.items():
        task = proc / str(pid) / "task" / str(tid)
        task.mkdir(parents=True)
        (task / "comm").write_text(f"{name}\n")
        (task / "schedstat").write_text(f"1 {delay * tid} 3\n")
    (proc / str(pid) / "stat").write_text(f"{pid} (a) b (c) S {parent} 1 1\n")


def test_all_that_a_process_has_started_is_found(tmp_path: Path) -> None:
    for pid, parent in ((10, 1), (11, 10), (12, 11), (13, 1)):
        process(tmp_path, pid, parent, {pid: "x"})
    (tmp_path / "14").mkdir()
    assert processes_below(10, tmp_path) == [10, 11, 12]


@pytest.mark.parametrize(
    "names",
    [
        ("CPU 0/KVM", "CPU 1/KVM"),
        ("fc_vcpu 0", "fc_vcpu 1"),
        ("vcpu0", "vcpu1"),
        ("crosvm_vcpu0", "crosvm_vcpu1"),
        ("kvm-vcpu-0", "kvm-vcpu-1"),
        ("pvtime-vcpu0", "pvtime-vcpu1"),
    ],
)
def test_every_vmms_names_are_known(names: tuple[str, str], tmp_path: Path) -> None:
    process(tmp_path, 10, 1, {10: "vmm", 21: names[1], 20: names[0], 22: "CPU 0/TCG", 23: "vcpu"})
    threads = VcpuThreads(10, tmp_path, tmp_path / "none")
    assert threads.find() == 2
    assert threads.tids() == [20, 21]
    assert threads.run_delays() == {0: 140, 1: 147}


def test_a_thread_that_has_ended_is_left_out(tmp_path: Path) -> None:
    process(tmp_path, 10, 1, {20: "CPU 0/KVM", 21: "CPU 1/KVM"})
    threads = VcpuThreads(10, tmp_path, tmp_path / "none")
    threads.find()
    (tmp_path / "10/task/20/schedstat").unlink()
    (tmp_path / "10/task/21/schedstat").write_text("")
    assert threads.run_delays() == {}


def test_kvm_tells_of_threads_without_names(tmp_path: Path) -> None:
    process(tmp_path, 10, 1, {10: "vmm", 20: "vmm", 21: "vmm"})
    for vcpu, tid in ((0, 20), (1, 21)):
        folder = tmp_path / f"debug/kvm/10-9/vcpu{vcpu}"
        folder.mkdir(parents=True)
        (folder / "pid").write_text(f"{tid}\n")
    threads = VcpuThreads(10, tmp_path, tmp_path / "debug")
    assert threads.find() == 2
    assert threads.run_delays() == {0: 140, 1: 147}
