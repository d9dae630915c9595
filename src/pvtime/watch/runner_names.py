# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of the threads that had a CPU: their process, the VM that it runs, or the kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pvtime.host.process import read_bytes, thread_state
from pvtime.host.text import printable
from pvtime.host.vms import HostVm
from pvtime.watch.causes import CauseKind, CauseRow
from pvtime.watch.waits import IDLE, OTHERS, QUOTA, UNKNOWN, Runner

__all__ = ["RunnerNames"]


class RunnerNames:
    """Kind, name and process of each thread that had the CPU of a vCPU that waited.

    :param every: all VMs of the host.
    :param vm_of: the VM of each vCPU's thread that is followed.
    """

    def __init__(self, every: Sequence[HostVm], vm_of: Mapping[int, HostVm], proc: Path) -> None:
        self._by_pid = {vm.pid: vm for vm in every}
        self._vm_of = vm_of
        self._proc = proc
        self._known: dict[Runner, tuple[CauseKind, str, int | None]] = {}

    def identify(self, runner: Runner) -> None:
        """Look a thread up in /proc; it may have ended."""
        self._known[runner] = self._look_up(runner)

    def _look_up(self, runner: Runner) -> tuple[CauseKind, str, int | None]:
        tid, comm = runner
        own = printable(comm.rstrip(b"\0").partition(b"\0")[0], 32)
        status = read_bytes(f"{self._proc}/{tid}/status", 4096) or b""
        fields = dict(line.split(b":", 1) for line in status.splitlines() if b":" in line)
        tgid, parent = (int(fields.get(name, b"0").split()[0]) for name in (b"Tgid", b"PPid"))
        if tgid in self._by_pid:
            return CauseKind.VM, self._by_pid[tgid].label, tgid
        if tgid == 0:
            return CauseKind.PROCESS, f"{own} (ended)", tid
        if tgid == 2 or parent == 2:
            return CauseKind.KERNEL, own, tgid
        state = thread_state(f"{self._proc}/{tgid}")
        return CauseKind.PROCESS, printable(state.name, 32) if state else own, tgid

    def row(self, runner: Runner, vm: HostVm, ns: int) -> CauseRow:
        """Return the row of what a thread stole from a VM."""
        fixed = {
            IDLE: CauseKind.LATENCY,
            UNKNOWN: CauseKind.UNKNOWN,
            QUOTA: CauseKind.QUOTA,
            OTHERS: CauseKind.PROCESS,
        }
        if runner in fixed:
            return CauseRow(fixed[runner], "many others" if runner == OTHERS else "", None, ns)
        kind, name, pid = self._known[runner]
        if pid == vm.pid:
            own = self._vm_of.get(runner[0])
            sibling = own is not None and own.key == vm.key
            return CauseRow(CauseKind.SIBLING if sibling else CauseKind.VMM, "", pid, ns)
        return CauseRow(kind, name, pid, ns)
