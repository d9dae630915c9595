# SPDX-License-Identifier: GPL-2.0-or-later
"""Finding VMs: by their files, by their names, and with neither."""

from __future__ import annotations

from pathlib import Path

import pytest

from framework.fake_proc import FakeProc
from pvtime.host import vms
from pvtime.host.vms import HostVcpu, HostVm, VmFinder, examine_process, vcpu_of_thread


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    """Return a /proc without processes."""
    return FakeProc(tmp_path / "proc")


VMMS = [
    (b"qemu-system-aar", [b"/usr/bin/qemu-system-aarch64", b"-name", b"guest=web1,debug-threads=on"],
     b"CPU %d/KVM", "qemu:web1"),
    (b"qemu-kvm", [b"/usr/libexec/qemu-kvm", b"-name", b"a,,b"], b"CPU %d/KVM", "qemu:a,b"),
    (b"firecracker", [b"firecracker", b"--id", b"f1"], b"fc_vcpu %d", "firecracker:f1"),
    (b"cloud-hyperviso", [b"cloud-hypervisor"], b"vcpu%d", "cloud-hypervisor:50"),
    (b"crosvm", [b"crosvm", b"run", b"--name=c1"], b"crosvm_vcpu%d", "crosvm:c1"),
    (b"lkvm", [b"lkvm", b"run", b"--name", b"k1"], b"kvm-vcpu-%d", "kvmtool:k1"),
    (b"python3", [b"python3", b"-m", b"pvtime", b"run"], b"pvtime-vcpu%d", "pvtime:50"),
]  # fmt: skip


@pytest.mark.parametrize("files", [{}, {9: 0, 11: 1}], ids=["another user's", "own"])
@pytest.mark.parametrize(("comm", "arguments", "thread", "label"), VMMS, ids=[case[3] for case in VMMS])
def test_every_vmm_is_found_with_the_threads_of_its_vcpus(
    proc: FakeProc, comm: bytes, arguments: list[bytes], thread: bytes, label: str, files: dict[int, int]
) -> None:
    proc.process(
        50, comm, arguments, threads={51: thread % 0, 52: b"worker", 53: thread % 1}, vcpu_files=files
    )
    vm = examine_process(50, proc.root)
    assert vm is not None
    assert vm.label == label
    assert vm.vcpus == (HostVcpu(0, 51), HostVcpu(1, 53))


def test_the_one_thread_of_an_emulated_machine_runs_all_its_vcpus(proc: FakeProc) -> None:
    proc.process(
        50, b"pvtime", [b"/usr/bin/python3", b"/usr/bin/pvtime", b"run"], threads={51: b"pvtime-engine"}
    )
    vm = examine_process(50, proc.root)
    assert vm is not None
    assert [vcpu.label for vcpu in vm.vcpus] == ["all"]


def test_a_vmm_of_an_unknown_name_is_found_by_its_files_and_its_threads_by_debugfs(
    proc: FakeProc, tmp_path: Path
) -> None:
    proc.process(50, b"my\x1b[2Jvmm", threads={51: b"a", 52: b"b"}, vcpu_files={9: 0, 10: 1})
    for index, tid in ((0, 52), (1, 51)):
        directory = tmp_path / f"debug/kvm/50-8/vcpu{index}"
        directory.mkdir(parents=True)
        directory.joinpath("pid").write_text(f"{tid}\n")
    vm = examine_process(50, proc.root, tmp_path / "debug")
    assert vm is not None
    assert vm.label == "my\\x1b[2Jvmm:50"
    assert [vcpu.tid for vcpu in vm.vcpus] == [52, 51]


def test_without_debugfs_the_thread_is_known_by_its_system_call_or_is_not_known(
    proc: FakeProc, tmp_path: Path
) -> None:
    proc.process(50, b"vmm", threads={51: b"a", 52: b"b"}, vcpu_files={9: 0, 10: 1})
    proc.root.joinpath("50/task/52/syscall").write_text("16 0xa 0xae80 0x0 0x0 0x0 0x0 0x7ff 0x7fe\n")
    proc.root.joinpath("50/task/51/syscall").write_text("running\n")
    vm = examine_process(50, proc.root, tmp_path)
    assert vm is not None
    assert [(vcpu.index, vcpu.tid) for vcpu in vm.vcpus] == [(0, None), (1, 52)]


@pytest.mark.parametrize(
    "name", ["vcpu", "vcpu0x", "CPU 0/KVMx", "CPU /KVM", "vcpu99999999999", "", "fc_vcpu"]
)
def test_other_threads_are_no_vcpus(name: str) -> None:
    assert vcpu_of_thread(name) is None


def test_a_thread_that_only_calls_itself_a_vcpu_makes_no_vm_of_an_unknown_program(proc: FakeProc) -> None:
    proc.process(50, b"bash", [b"bash"], threads={51: b"CPU 0/KVM"})
    proc.process(60, b"qemu-img", [b"qemu-img"])
    assert VmFinder(proc.root).find() == []


def test_a_process_that_becomes_a_vm_is_found_soon_and_forgotten_when_it_ends(proc: FakeProc) -> None:
    finder = VmFinder(proc.root)
    proc.process(50, b"sh", [b"sh"])
    assert finder.find() == []
    proc.process(50, b"qemu-system-x86", [b"qemu-system-x86_64"], threads={51: b"CPU 0/KVM"})
    assert [vm.label for vm in finder.find()] == ["qemu:50"]
    proc.end(50)
    assert finder.find() == []
    proc.process(50, b"firecracker", [b"firecracker"], threads={51: b"fc_vcpu 0"}, start=900)
    assert [(vm.vmm, vm.start_ticks) for vm in finder.find()] == [("firecracker", 900)]


def test_a_vcpu_whose_thread_is_not_known_does_not_cost_a_look_at_every_refresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A VMM with 100,000 threads and such a vCPU took 5 s of each sample of pvtime top."""
    proc = FakeProc(tmp_path / "proc")
    proc.process(50, b"qemu-kvm", vcpu_files={5: 0})
    looks: list[int] = []
    examine = vms.examine_process

    def counted(pid: int, proc: Path, debug: Path | None) -> HostVm | None:
        looks.append(pid)
        return examine(pid, proc, debug)

    monkeypatch.setattr(vms, "examine_process", counted)
    finder = VmFinder(proc.root, tmp_path)
    for _ in range(64):
        finder.find()
    assert len(looks) <= 8
    proc.process(50, b"qemu-kvm", threads={51: b"CPU 0/KVM"})
    assert [finder.find()[0].vcpus[0].tid for _ in range(16)][-1] == 51
