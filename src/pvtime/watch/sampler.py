# SPDX-License-Identifier: GPL-2.0-or-later
"""The time of every vCPU on this host between two samples: ran, stolen, stopped, off the CPU."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

from pvtime.host.cgroups import CgroupMounts, CpuQuota, Throttling
from pvtime.host.process import PROC, thread_state
from pvtime.host.schedstat import ThreadFigures, ThreadReader
from pvtime.host.vms import HostVcpu, HostVm, VmFinder

__all__ = ["Cause", "HostSample", "HostSampler", "VcpuInterval", "VmInterval"]

WITHOUT_ROOT: Final = "without root, VMs of other users are seen only if their VMM is known by name"
LITTLE: Final = 0.01
"""Share of the time below which no cause is looked for."""
NOHZ_FULL: Final = Path("/sys/devices/system/cpu/nohz_full")


class Cause(StrEnum):
    """The main cause of a vCPU's stolen time, as far as sampling can tell."""

    NONE = "-"
    QUOTA = "quota"
    """A quota of its cgroup kept it from running."""
    OWN = "own vCPUs"
    """The VM's threads used up the CPUs that they may run on."""
    OTHERS = "others"
    """Other threads had the CPU; ``pvtime who`` names them."""


@dataclass(frozen=True)
class VcpuInterval:
    """A vCPU's time since the sample before, in ns, and since its thread started."""

    vcpu: HostVcpu
    state: str
    cpu: int | None
    elapsed_ns: int
    ran_ns: int
    stolen_ns: int
    """It was runnable and waited for a CPU. A wait that has not ended is in it."""
    stopped_ns: int
    """It was stopped or frozen for the whole time."""
    total_ran_ns: int
    total_stolen_ns: int
    cause: Cause = Cause.NONE

    @property
    def off_ns(self) -> int:
        """Return the rest: idle, blocked, or stopped for a part of the time."""
        return max(0, self.elapsed_ns - self.ran_ns - self.stolen_ns - self.stopped_ns)


@dataclass(frozen=True)
class VmInterval:
    """A VM's vCPUs."""

    vm: HostVm
    stopped: bool
    frozen: bool
    throttled_ns: int | None
    """Time for which its quota kept its threads from running, summed over CPUs; None: it has no quota."""
    vcpus: tuple[VcpuInterval, ...]

    @property
    def stolen_ns(self) -> int:
        """Return the time stolen from all its vCPUs."""
        return sum(vcpu.stolen_ns for vcpu in self.vcpus)

    @property
    def ran_ns(self) -> int:
        """Return the time for which all its vCPUs ran."""
        return sum(vcpu.ran_ns for vcpu in self.vcpus)


@dataclass(frozen=True)
class HostSample:
    """All VMs at one moment, and the time since the moment before."""

    time_ns: int
    """Since 1970."""
    elapsed_ns: int
    vms: tuple[VmInterval, ...]
    missing: tuple[str, ...]
    """Unknown figures and the reasons, in sentences."""


class _Tracked:
    """A vCPU's thread and its last figures."""

    def __init__(self, reader: ThreadReader) -> None:
        self.reader = reader
        self.figures: ThreadFigures | None = None
        self.read_at: int | None = None
        self.pending = 0
        """The part of a wait that has not ended which was shown already."""
        self.halted = False
        """It was stopped or frozen at the last reading."""


class HostSampler:
    """Samples again and again; each sample has the time since the one before.

    :param clock: monotonic, in ns.
    :param root: whether all processes' files can be seen; None: as this user may.
    """

    def __init__(
        self,
        finder: VmFinder | None = None,
        proc: Path = PROC,
        clock: Callable[[], int] = time.monotonic_ns,
        root: bool | None = None,
    ) -> None:
        self._finder = finder or VmFinder(proc)
        self._root = os.geteuid() == 0 if root is None else root
        self._proc = proc
        self._clock = clock
        self._mounts = CgroupMounts(proc)
        self._threads: dict[tuple[int, int, int], _Tracked] = {}
        self._memberships: dict[tuple[int, int], dict[str, str]] = {}
        self._quotas: dict[tuple[int, int], list[CpuQuota]] = {}
        self._throttled: dict[str, Throttling] = {}
        self._round = 0
        self._last: int | None = None
        self._ticks_everywhere = _text(NOHZ_FULL).strip() in ("", "(null)")

    def sample(self) -> HostSample:
        """Return the VMs and their time since the last sample; a VM that is new has a time of 0."""
        now = self._clock()
        elapsed = 0 if self._last is None else now - self._last
        self._last = now
        vms = self._finder.find()
        seen: set[tuple[int, int, int]] = set()
        intervals, hidden = [], 0
        for vm in vms:
            interval = self._sample_vm(vm, seen)
            if interval is not None:
                intervals.append(interval)
                hidden += sum(vcpu.tid is None for vcpu in vm.vcpus)
        for key in self._threads.keys() - seen:
            self._threads.pop(key).reader.close()
        for known in (self._memberships, self._quotas):
            for gone in known.keys() - {vm.key for vm in vms}:
                del known[gone]
        self._round += 1
        missing = [f"{hidden} vCPUs have no thread that can be told"] if hidden else []
        if not self._root:
            missing.append(WITHOUT_ROOT)
        return HostSample(time.time_ns(), elapsed, tuple(intervals), tuple(missing))

    def close(self) -> None:
        """Close all files."""
        for tracked in self._threads.values():
            tracked.reader.close()
        self._threads.clear()

    def _sample_vm(self, vm: HostVm, seen: set[tuple[int, int, int]]) -> VmInterval | None:
        state = thread_state(f"{self._proc}/{vm.pid}")
        if state is None or state.start_ticks != vm.start_ticks:
            self._finder.forget(vm.pid)
            return None
        if vm.key not in self._memberships or self._round % 16 == 0:  # a process may be moved
            self._memberships[vm.key] = self._mounts.membership(vm.pid)
            quotas = {quota.directory: quota for quota in self._mounts.quotas(self._memberships[vm.key])}
            for vcpu in vm.vcpus:  # libvirt has a cgroup for each vCPU
                if vcpu.tid is not None:
                    for quota in self._mounts.quotas(self._mounts.membership(vm.pid, vcpu.tid)):
                        quotas[quota.directory] = quota
            self._quotas[vm.key] = list(quotas.values())
        frozen = self._mounts.frozen(self._memberships[vm.key])
        halted = state.stopped or frozen
        vcpus = [
            interval
            for vcpu in vm.vcpus
            if vcpu.tid is not None and (interval := self._sample_vcpu(vm, vcpu, halted, seen)) is not None
        ]
        throttled = self._newly_throttled(vm)
        caused = tuple(self._with_cause(vm, vcpu, vcpus, throttled) for vcpu in vcpus)
        return VmInterval(vm, state.stopped, frozen, throttled, caused)

    def _sample_vcpu(
        self, vm: HostVm, vcpu: HostVcpu, halted: bool, seen: set[tuple[int, int, int]]
    ) -> VcpuInterval | None:
        assert vcpu.tid is not None
        key = (*vm.key, vcpu.tid)
        tracked = self._threads.get(key)
        if tracked is None:
            try:
                tracked = self._threads[key] = _Tracked(ThreadReader(vm.pid, vcpu.tid, self._proc))
            except ProcessLookupError:
                self._finder.forget(vm.pid)
                return None
        now = self._clock()
        figures = tracked.reader.read()
        if figures is None:
            self._finder.forget(vm.pid)
            return None
        seen.add(key)
        before = tracked.figures or figures
        elapsed = 0 if tracked.read_at is None else now - tracked.read_at
        same_slice = figures.timeslices == before.timeslices
        ran, delay = figures.ran_ns - before.ran_ns, figures.run_delay_ns - before.run_delay_ns
        pending = 0
        if same_slice and self._ticks_everywhere and figures.state == "R" and ran == 0 and delay == 0:
            pending = tracked.pending + elapsed
        halted = halted or figures.state in "Tt"
        stolen = max(0, delay + pending - tracked.pending)
        stopped = elapsed - ran - stolen if halted and tracked.halted and same_slice else 0
        tracked.figures, tracked.read_at, tracked.pending, tracked.halted = figures, now, pending, halted
        total = figures.run_delay_ns + pending
        return VcpuInterval(
            vcpu, figures.state, figures.cpu, elapsed, ran, stolen, max(0, stopped), figures.ran_ns, total
        )

    def _newly_throttled(self, vm: HostVm) -> int | None:
        total = None
        for quota in self._quotas[vm.key]:
            now = quota.throttling()
            if now is None:
                continue
            before = self._throttled.get(quota.directory, now)
            self._throttled[quota.directory] = now
            total = (total or 0) + max(0, now.throttled_ns - before.throttled_ns)
        return total

    def _with_cause(
        self, vm: HostVm, one: VcpuInterval, all_vcpus: list[VcpuInterval], throttled: int | None
    ) -> VcpuInterval:
        if one.elapsed_ns == 0 or one.stolen_ns < LITTLE * one.elapsed_ns:
            return one
        cause = Cause.OTHERS
        if throttled and 2 * throttled >= sum(vcpu.stolen_ns for vcpu in all_vcpus):
            cause = Cause.QUOTA
        elif one.vcpu.tid is not None and (cpus := _allowed(self._proc, vm.pid, one.vcpu.tid)):
            sharing = [vcpu for vcpu in all_vcpus if vcpu.cpu in cpus]
            if sum(vcpu.ran_ns for vcpu in sharing) >= 0.9 * one.elapsed_ns * len(cpus) and len(sharing) > 1:
                cause = Cause.OWN
        return replace(one, cause=cause)


def _allowed(proc: Path, pid: int, tid: int) -> set[int]:
    """Return the CPUs on which a thread may run; none where it has ended."""
    for line in _text(Path(f"{proc}/{pid}/task/{tid}/status")).splitlines():
        name, _, value = line.partition(":")
        if name == "Cpus_allowed_list":
            return parse_cpus(value.strip())
    return set()


def parse_cpus(text: str) -> set[int]:
    """Return the CPUs of a list such as ``0-3,8``."""
    found: set[int] = set()
    for part in text.strip().split(","):
        low, _, high = part.partition("-")
        if low.isdecimal():
            found |= set(range(int(low), int(high if high.isdecimal() else low) + 1))
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
