# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests beside their hosts: whether each has stolen time, and what it has counted.

pvtime's own machines are asked by their control sockets, and QEMU by its monitor and its guest's agent where
its command line names their sockets. A VM that does not answer costs a thread for the time-out, and nobody
waits for it who draws.
"""

from __future__ import annotations

import platform
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from pvtime.host.process import PROC, command_line, read_bytes
from pvtime.host.qemu import QemuOptions, Told, ask_agent, ask_monitor, told_by_options
from pvtime.host.vmm_socket import VmmSocketError
from pvtime.host.vms import HostVm
from pvtime.watch.own_machines import OwnVcpu, ask_own_machines

__all__ = ["GuestErrors", "GuestFigures", "GuestPoller", "GuestVcpu", "ask_guests", "told_from_outside"]

TIMEOUT_S: Final = 0.5
"""For each socket."""
THREADS: Final = 32
NO_AGENT: Final = "its command line has no path of a guest agent"


@dataclass(frozen=True)
class GuestVcpu:
    """A vCPU's stolen time in ns; None: it is not known."""

    index: int
    host_ns: int | None
    """The truth of a machine of pvtime's, else its thread's run_delay, read when the guest had answered."""
    structure_ns: int | None
    guest_ns: int | None
    """The guest's own steal."""
    error_ns: int | None
    """The guest's count less its host's. A guest that counts from its own boot has none before its
    second answer: see :class:`GuestErrors`."""

    @property
    def counts(self) -> tuple[int, int] | None:
        """Return the host's count and the guest's; None: one is not known."""
        return None if self.host_ns is None or self.guest_ns is None else (self.host_ns, self.guest_ns)


@dataclass(frozen=True)
class GuestFigures:
    """A VM's guest."""

    vm: HostVm
    told: Told
    note: str
    """Reason why there are no figures; empty: there are."""
    vcpus: tuple[GuestVcpu, ...]


def ask_guests(
    vms: Sequence[HostVm],
    own: Sequence[OwnVcpu] | None = None,
    timeout_s: float = TIMEOUT_S,
    proc: Path = PROC,
) -> dict[int, GuestFigures]:
    """Return the figures of all guests, by their VMM's process; they are asked at once.

    :param own: pvtime's own machines; None: they are asked too.
    """
    if not vms:
        return {}
    with ThreadPoolExecutor(min(THREADS, len(vms) + 1)) as pool:
        of_own = pool.submit(ask_own_machines) if own is None else None
        others = [vm for vm in vms if vm.vmm != "pvtime"]
        found = {figures.vm.pid: figures for figures in pool.map(partial(_ask, timeout_s, proc), others)}
        by_pid: defaultdict[int, list[OwnVcpu]] = defaultdict(list)
        for vcpu in of_own.result() if of_own else own or ():
            by_pid[vcpu.pid].append(vcpu)
    for vm in vms:
        if vm.vmm == "pvtime":
            found[vm.pid] = _of_own(vm, by_pid[vm.pid])
    return found


def told_from_outside(vm: HostVm, proc: Path = PROC) -> Told:
    """Return what is known of a guest by its VMM's command line, without a question to anybody."""
    arguments = command_line(vm.pid, proc)
    match vm.vmm:
        case "qemu":
            return told_by_options(QemuOptions(arguments), kvm=not _is_emulated(vm, proc))
        case "kvmtool" if b"--no-pvtime" in arguments:
            return Told(False, "kvmtool was started with --no-pvtime")
        case "cloud-hypervisor" if platform.machine() == "aarch64":
            return Told(False, "cloud-hypervisor has none on arm64 (its issue 8262)")
        case _:
            return Told(None, f"{vm.vmm} has no option or socket that says so")


def _is_emulated(vm: HostVm, proc: Path) -> bool:
    """Whether QEMU's vCPUs are emulated, by the names of their threads."""
    names = [read_bytes(f"{proc}/{vm.pid}/task/{vcpu.tid}/comm", 64) or b"" for vcpu in vm.vcpus[:1]]
    return any(b"TCG" in name for name in names)


def _ask(timeout_s: float, proc: Path, vm: HostVm) -> GuestFigures:
    told = told_from_outside(vm, proc)
    if vm.vmm != "qemu":
        return GuestFigures(vm, told, f"{vm.vmm} has no guest agent that is known", ())
    options = QemuOptions(command_line(vm.pid, proc))
    if (path := options.monitor_path()) is not None:
        with suppress(VmmSocketError):  # the command line's answer remains
            told = ask_monitor(vm.pid, path, timeout_s, proc)
    if (path := options.agent_path()) is None:
        return GuestFigures(vm, told, NO_AGENT, ())
    try:
        cpus = ask_agent(vm.pid, path, timeout_s, proc)
    except VmmSocketError as error:
        return GuestFigures(vm, told, f"the guest agent: {error}", ())
    threads = {vcpu.index: vcpu.tid for vcpu in vm.vcpus}
    vcpus = tuple(
        GuestVcpu(cpu.index, _run_delay(vm.pid, threads.get(cpu.index), proc), None, cpu.steal_ns, None)
        for cpu in cpus
    )
    return GuestFigures(vm, told, "", vcpus)


def _run_delay(pid: int, tid: int | None, proc: Path) -> int | None:
    fields = (read_bytes(f"{proc}/{pid}/task/{tid}/schedstat") or b"").split()
    return int(fields[1]) if len(fields) >= 3 else None


def _of_own(vm: HostVm, own: Sequence[OwnVcpu]) -> GuestFigures:
    if not own:
        told = Told(None, "its control socket does not answer, or is another user's")
        return GuestFigures(vm, told, told.why, ())
    untold = [str(vcpu.index) for vcpu in own if not vcpu.told]
    told = (
        Told(False, f"vCPU {' and '.join(untold)} has no stolen time")
        if untold
        else Told(True, "it has asked for its structures")
    )
    vcpus = (
        GuestVcpu(
            vcpu.index,
            vcpu.truth_ns,
            vcpu.structure_ns,
            vcpu.guest_ns,
            None if vcpu.guest_ns is None else vcpu.guest_ns - vcpu.truth_ns,
        )
        for vcpu in own
    )
    return GuestFigures(vm, told, "", tuple(vcpus))


class GuestErrors:
    """The errors of guests that count from their own boot.

    Such a guest's error is what its count has grown more than its thread's run_delay since the first answer.
    """

    def __init__(self) -> None:
        self._first: dict[tuple[int, int, int], tuple[int, int]] = {}

    def add(self, answers: dict[int, GuestFigures]) -> dict[int, GuestFigures]:
        """Return the answers with the errors that can be known; forget the VMs that are not in them."""
        keys = {figures.vm.key for figures in answers.values()}
        self._first = {key: first for key, first in self._first.items() if key[:2] in keys}
        return {
            pid: replace(figures, vcpus=tuple(self._with_error(figures.vm, vcpu) for vcpu in figures.vcpus))
            for pid, figures in answers.items()
        }

    def _with_error(self, vm: HostVm, vcpu: GuestVcpu) -> GuestVcpu:
        counts = vcpu.counts
        if vcpu.error_ns is not None or counts is None:
            return vcpu
        key = (*vm.key, vcpu.index)
        first = self._first.get(key)
        if first is None or counts[1] < first[1]:  # the guest was reset
            self._first[key] = counts
            return vcpu
        return replace(vcpu, error_ns=(counts[1] - first[1]) - (counts[0] - first[0]))


class GuestPoller:
    """Asks guests in a thread of its own; the last answers can be had at any time.

    :meth:`close` ends the thread, when the guests that it is asking have answered or their time is over.
    """

    def __init__(self, ask: Callable[[Sequence[HostVm]], dict[int, GuestFigures]] = ask_guests) -> None:
        self._ask = ask
        self._wanted: Sequence[HostVm] | None = None
        self._condition = threading.Condition()
        self._answers: dict[int, GuestFigures] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="guests", daemon=True)
        self._thread.start()

    def request(self, vms: Sequence[HostVm]) -> None:
        """Have these VMs' guests asked as soon as the last round is done; do not wait."""
        with self._condition:
            self._wanted = vms
            self._condition.notify()

    def answers(self) -> dict[int, GuestFigures]:
        """Return the last answers, by process."""
        return self._answers

    def close(self) -> None:
        """End the thread."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        self._thread.join()

    def _run(self) -> None:
        errors = GuestErrors()
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._wanted is not None or self._closed)
                if self._closed:
                    return
                wanted, self._wanted = self._wanted, None
            assert wanted is not None
            self._answers = errors.add(self._ask(wanted))
