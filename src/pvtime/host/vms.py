# SPDX-License-Identifier: GPL-2.0-or-later
"""The VMs of this host, and the threads of their vCPUs.

A process is a VMM if it has a file ``anon_inode:kvm-vcpu:N`` (virt/kvm/kvm_main.c, create_vcpu_fd), which
its own user and root can see, or if it is one by name and has threads that are named like vCPUs. Which thread
runs a vCPU is known by the thread's name, by KVM's debugfs (``kvm/PID-FD/vcpuN/pid``, Linux 6.0), or by the
system call in which the thread is: KVM_RUN on the vCPU's file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pvtime.host.mounts import debugfs
from pvtime.host.process import (
    PROC,
    command_line,
    kvm_run_fd,
    process_ids,
    read_bytes,
    thread_ids,
    thread_state,
)
from pvtime.host.text import printable

__all__ = ["HostVcpu", "HostVm", "VmFinder", "examine_process", "vcpu_of_thread"]

MAX_FILES: Final = 20_000
"""Open files of a process that are looked through for a vCPU's."""
MAX_THREADS: Final = 20_000
"""Threads of a process that are looked through for those of its vCPUs, the oldest first: 8 us each."""
MAX_VCPUS: Final = 4096

_VCPU_FILE: Final = re.compile(r"anon_inode:(?:\[)?kvm-vcpu:(\d{1,9})(?:\])?")
_SHARED: Final = re.compile(r"ALL CPUs/TCG|pvtime-engine")
"""One thread that runs all vCPUs of a machine in turn."""
_THREAD_NAME: Final = re.compile(
    r"CPU (\d{1,9})/(?:KVM|TCG|MSHV|HVF|Xen)"  # QEMU
    r"|fc_vcpu (\d{1,9})"  # Firecracker
    r"|crosvm_vcpu(\d{1,9})"
    r"|pvtime-vcpu(\d{1,9})"
    r"|kvm-vcpu-(\d{1,9})"  # kvmtool
    r"|vcpu(\d{1,9})"  # cloud-hypervisor
)
_PROGRAMS: Final = (
    (re.compile(r"qemu-system-.*|qemu-kvm|kvm"), "qemu"),
    (re.compile(r"firecracker.*"), "firecracker"),
    (re.compile(r"cloud-hyperviso.*"), "cloud-hypervisor"),  # a process's name has 15 characters
    (re.compile(r"crosvm.*"), "crosvm"),
    (re.compile(r"lkvm.*|kvmtool"), "kvmtool"),
    (re.compile(r"pvtime"), "pvtime"),
)
"""Names of a VMM's program."""
_NAME_OPTIONS: Final = {
    "qemu": ("-name", "--name"),
    "firecracker": ("--id",),
    "crosvm": ("--name",),
    "kvmtool": ("--name", "-n"),
    "pvtime": ("--name",),
}


@dataclass(frozen=True)
class HostVcpu:
    """A vCPU and the thread that runs it."""

    index: int
    tid: int | None
    """None: it is not known which thread."""
    shared: bool = False
    """The thread runs all vCPUs of the machine in turn."""

    @property
    def label(self) -> str:
        """Return its name in a table."""
        return "all" if self.shared else str(self.index)


@dataclass(frozen=True)
class HostVm:
    """A VM as its host sees it."""

    pid: int
    start_ticks: int
    """See :class:`pvtime.host.process.ThreadState`: the process of this ``pid`` that started then."""
    vmm: str
    """``qemu``, ``firecracker``, ``cloud-hypervisor``, ``crosvm``, ``kvmtool``, ``pvtime``; else the name of
    the program."""
    name: str
    """As its VMM was told; without that, the process's identifier. Printable."""
    vcpus: tuple[HostVcpu, ...]

    @property
    def label(self) -> str:
        """Return the VMM and the name: ``qemu:web1``."""
        return f"{self.vmm}:{self.name}"

    @property
    def key(self) -> tuple[int, int]:
        """Return what no other VM has between two boots of the host."""
        return self.pid, self.start_ticks


def vcpu_of_thread(name: str) -> int | None:
    """Return the index of the vCPU that a thread of this name runs; None if it is no vCPU's name."""
    match = _THREAD_NAME.fullmatch(name)
    return int(match[match.lastindex or 0]) if match else None


def examine_process(pid: int, proc: Path = PROC, debug: Path | None = None) -> HostVm | None:
    """Return the VM that a process runs; None if it runs none, as far as this user can see."""
    state = thread_state(f"{proc}/{pid}")
    if state is None or state.ended:
        return None
    files = _vcpu_files(pid, proc)
    arguments = command_line(pid, proc)
    vmm = _vmm(state.name, arguments)
    if not files and vmm is None:
        return None
    threads, shared = _named_threads(pid, proc)
    if not files and not threads:
        return None
    if set(files.values()) - set(threads):
        threads |= _debugfs_threads(pid, debug or debugfs())
    if missing := set(files.values()) - set(threads):
        running = {fd: index for fd, index in files.items() if index in missing}
        threads |= _threads_in_kvm_run(pid, running, proc)
    indices = sorted({*threads, *files.values()})[:MAX_VCPUS]
    kind = vmm or printable(os.path.basename(state.name), 20)
    return HostVm(
        pid,
        state.start_ticks,
        kind,
        _name(kind, arguments) or str(pid),
        tuple(HostVcpu(index, threads.get(index), shared) for index in indices),
    )


def _vmm(comm: bytes, arguments: Sequence[bytes]) -> str | None:
    """Return the VMM by the name of its process or of its program."""
    # An interpreter's program is in its second argument, or behind -m.
    words = [comm, *(os.path.basename(word) for word in arguments[:1])]
    if arguments and os.path.basename(arguments[0]).startswith(b"python"):
        words += [os.path.basename(word) for word in arguments[1:4]]
    for word in words:
        text = word.decode("ascii", "replace")
        for pattern, vmm in _PROGRAMS:
            if pattern.fullmatch(text):
                return vmm
    return None


def _name(vmm: str, arguments: Sequence[bytes]) -> str | None:
    """Return a VM's name from the command line of its VMM; None: it has none."""
    options = _NAME_OPTIONS.get(vmm, ())
    for at, argument in enumerate(arguments):
        word = argument.decode("utf-8", "backslashreplace")
        option, equals, value = word.partition("=")
        if option not in options or (equals and vmm == "qemu"):
            continue
        if not equals:
            value = arguments[at + 1].decode("utf-8", "backslashreplace") if at + 1 < len(arguments) else ""
        if vmm == "qemu":  # -name guest=web1,debug-threads=on; a comma in a name is doubled
            value = value.replace(",,", "\0").partition(",")[0].replace("\0", ",").removeprefix("guest=")
        return printable(value, 40) or None
    return None


def _vcpu_files(pid: int, proc: Path) -> dict[int, int]:
    """Return the vCPUs' indices by the descriptors of their files; none where they are another user's."""
    directory = f"{proc}/{pid}/fd"
    found: dict[int, int] = {}
    try:
        with os.scandir(directory) as entries:
            for count, entry in enumerate(entries):
                if count >= MAX_FILES or len(found) >= MAX_VCPUS:
                    break
                try:
                    match = _VCPU_FILE.fullmatch(os.readlink(entry.path))
                except OSError:  # it was closed meanwhile
                    continue
                if match:
                    found[int(entry.name)] = int(match[1])
    except OSError:
        pass
    return found


def _named_threads(pid: int, proc: Path) -> tuple[dict[int, int], bool]:
    """Return the threads that are named like vCPUs, by index, and whether it is one for all."""
    found: dict[int, int] = {}
    for tid in sorted(thread_ids(pid, proc))[:MAX_THREADS]:
        name = (
            (read_bytes(f"{proc}/{pid}/task/{tid}/comm", 64) or b"").rstrip(b"\n").decode("ascii", "replace")
        )
        if _SHARED.fullmatch(name):
            return {0: tid}, True
        index = vcpu_of_thread(name)
        if index is not None:
            found.setdefault(index, tid)
    return found, False


def _debugfs_threads(pid: int, debug: Path) -> dict[int, int]:
    """Return the vCPUs' threads as KVM's debugfs has them, for root."""
    found = {}
    for path in debug.glob(f"kvm/{pid}-*/vcpu[0-9]*/pid"):
        thread = (read_bytes(path) or b"").strip()
        index = path.parent.name.removeprefix("vcpu")
        if thread.isdigit() and index.isdecimal() and int(thread):
            found[int(index)] = int(thread)
    return found


def _threads_in_kvm_run(pid: int, files: dict[int, int], proc: Path) -> dict[int, int]:
    """Return the threads that are in KVM_RUN, by the vCPU whose file they have called it on."""
    found = {}
    for tid in sorted(thread_ids(pid, proc))[:MAX_THREADS]:
        fd = kvm_run_fd(read_bytes(f"{proc}/{pid}/task/{tid}/syscall") or b"")
        if fd in files and not _is_worker(f"{proc}/{pid}/task/{tid}"):
            found[files[fd]] = tid
    return found


def _is_worker(directory: str) -> bool:
    """Whether a thread is KVM's own, which has its maker's registers: kvm-nx-lpage-recovery, vhost."""
    return (read_bytes(f"{directory}/comm", 64) or b"").startswith((b"kvm-nx", b"vhost"))


class VmFinder:
    """Finds the VMs again and again, at the cost of looking at what is new.

    A process that is none may become one, by execve or when it makes its VM: it is looked at again after 1,
    2, 4 and so on up to 64 refreshes, and a VM of which a vCPU has no thread yet up to 16. All VMs are looked
    at every 16th refresh: vCPUs are added while they run.
    """

    def __init__(self, proc: Path = PROC, debug: Path | None = None) -> None:
        self._proc = proc
        self._debug = debug
        self._round = 0
        self._vms: dict[int, HostVm] = {}
        self._due: dict[int, tuple[int, int]] = {}
        """By process: the round of the next look, and the distance of the one after that."""

    def find(self) -> list[HostVm]:
        """Return the VMs that there are now, by process."""
        pids = process_ids(self._proc)
        gone = self._due.keys() - set(pids)
        for pid in gone:
            del self._due[pid]
            self._vms.pop(pid, None)
        for pid in pids:
            due, distance = self._due.get(pid, (0, 0))
            if due <= self._round:
                self._look(pid, distance)
        self._round += 1
        return [self._vms[pid] for pid in sorted(self._vms)]

    def forget(self, pid: int) -> None:
        """Look at a process again in the next round: its threads have ended."""
        self._due.pop(pid, None)

    def _look(self, pid: int, distance: int) -> None:
        vm = examine_process(pid, self._proc, self._debug)
        if vm is None:
            self._vms.pop(pid, None)
            distance = min(64, max(1, 2 * distance))
        else:
            self._vms[pid] = vm
            known = all(vcpu.tid is not None for vcpu in vm.vcpus)
            distance = 16 if known else min(16, max(1, 2 * distance))
        self._due[pid] = (self._round + distance, distance)
