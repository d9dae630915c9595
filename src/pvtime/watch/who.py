# SPDX-License-Identifier: GPL-2.0-or-later
"""The course of ``pvtime who``: name the threads that had the CPU while vCPUs waited for it.

The scheduler's events are traced for all CPUs, by perf in rings of bounded size, and taken apart here. After
a while in which it learns what every vCPU does, the window begins. run_delay is read again and again beside
that, and compared with the waits that were traced.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pvtime.errors import UsageError
from pvtime.host.cgroups import CgroupMounts, CpuQuota, Throttling
from pvtime.host.perf import PerfRing, perf_ring
from pvtime.host.process import PROC, read_bytes, thread_ids
from pvtime.host.schedstat import ThreadReader
from pvtime.host.tracefs import require_host_pids, tracefs
from pvtime.host.vms import HostVcpu, HostVm
from pvtime.watch.causes import VcpuCauses, VmCauses, WhoResult, sum_rows
from pvtime.watch.event_queue import Event, EventQueue
from pvtime.watch.page_faults import FaultSampler
from pvtime.watch.runner_names import RunnerNames
from pvtime.watch.sampler import parse_cpus
from pvtime.watch.wait_tracker import WaitTracker
from pvtime.watch.waits import Activity

__all__ = ["WhoSession", "check_tracing", "clock"]

WARM_UP_S: Final = 0.25
"""Seconds of tracing before the window: two and a half periods of the usual quota."""
POLL_S: Final = 0.02
"""Between two readings of the quotas' counts."""
DRAIN_EVERY: Final = 5
"""Polls between two drains of the rings."""
QUOTA_READ_NS: Final = 2_000_000
"""A quota's count that took longer to read is read again: what ended meanwhile may be in it, or not."""
SLACK_NS: Final = 20_000_000
"""A record may come this much later into its ring than its time."""
RING_BYTES: Final = 64 << 20
"""For all CPUs together."""
MOST_PERIOD_NS: Final = 500_000_000
"""A quota's period is 100 ms unless somebody changed it; a longer one is not waited for."""
MOST_PAGES: Final = 2048
"""Of a CPU's ring: records of 4 s at 20,000 switches a second, should this process have to wait for a CPU."""
MAX_FILTERED: Final = 100
"""Threads in a filter of the kernel's: its text must fit a page."""
CLOCK_MONOTONIC_RAW: Final = time.CLOCK_MONOTONIC_RAW

TRACEPOINTS: Final = ("sched_switch", "sched_wakeup", "sched_wakeup_new", "sched_migrate_task")
_SWITCH: Final = ("prev_comm", "prev_pid", "prev_state", "next_comm", "next_pid")


def check_tracing() -> None:
    """Check that the scheduler's events can be traced.

    :raises UsageError: this kernel cannot, or this user may not.
    """
    with tracefs() as system, perf_ring(0, 1, [system.tracepoint("sched_switch")], _SWITCH):
        pass


def clock() -> int:
    """Return the time in which the events are dated, in ns."""
    return time.clock_gettime_ns(CLOCK_MONOTONIC_RAW)


@dataclass
class _QuotaPoll:
    """A quota, the threads that it limits, and its last count."""

    quota: CpuQuota
    tids: list[int]
    read_at: int = 0
    throttled_ns: int | None = None


@dataclass
class _Followed:
    """A VM whose vCPUs are followed."""

    vm: HostVm
    membership: dict[str, str]
    readers: dict[int, ThreadReader] = field(default_factory=dict)
    frozen_ns: int = 0
    frozen: bool = False


def read_quota(quota: CpuQuota, clock: Callable[[], int]) -> tuple[Throttling | None, int]:
    """Return a quota's count, and the time in ns at which it was that: all that ended earlier is in it."""
    for _ in range(8):
        begun = clock()
        throttling = quota.throttling()
        read_at = clock()
        if read_at - begun < QUOTA_READ_NS:
            break
    return throttling, read_at


class WhoSession:
    """Traces for a while. Use it as a context manager: at its end nothing is traced any more.

    :param vms: the VMs to follow.
    :param every: all VMs of the host, to name neighbours.
    :param record: keep what is needed for a picture, up to so many pieces.
    :raises UsageError: this host, kernel or user cannot trace.
    """

    def __init__(
        self, vms: Sequence[HostVm], every: Sequence[HostVm], record: int = 0, proc: Path = PROC
    ) -> None:
        self._proc = proc
        self._record = record
        mounts = CgroupMounts(proc)
        self._mounts = mounts
        self._followed = [_Followed(vm, mounts.membership(vm.pid)) for vm in vms]
        self._vm_of: dict[int, HostVm] = {}
        self._quotas: dict[str, _QuotaPoll] = {}
        self._names = RunnerNames(every, self._vm_of, proc)
        self._events = EventQueue()
        self._increments: list[tuple[int, int, int, list[int]]] = []
        self._gap_runs: dict[int, int] = {}
        """The part of the CPU time of threads that the kernel does not trace which is divided already."""
        self.window_began = False
        """The result has all that happens from now on."""
        self._faults = FaultSampler()
        self._stack = ExitStack()
        self._cpus: dict[int, int] = {}

    def __enter__(self) -> WhoSession:
        """Open the rings."""
        try:
            require_host_pids("pvtime who")
            for followed in self._followed:
                self._follow(followed)
            if not self._vm_of:
                raise UsageError("no vCPU has a thread that is known: there is nothing to follow")
            self._open_rings()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        """Close them."""
        self._stack.close()

    def run(self, duration: float, stop: Callable[[], bool] = lambda: False) -> WhoResult:
        """Trace for a time, or until ``stop`` returns True; return what was found."""
        for ring in self._rings:
            ring.enable()
        begin = clock()
        limited = {tid for poll in self._quotas.values() for tid in poll.tids}
        self._tracker = WaitTracker(begin, self._cpus, limited, self._record)
        self._loop(begin + int(WARM_UP_S * 1e9), stop)
        window = clock()
        self._drain()
        self._process(window)
        self._resolve(at_end=False)
        self._tracker.restart(window)
        untraced = {*self._gap_runs, *thread_ids(1, self._proc)}  # docs/who.md has whose threads
        self._gap_runs = {tid: ran for tid in untraced if (ran := self._ran_ns(tid)) is not None}
        self.window_began = True
        for followed in self._followed:
            followed.frozen_ns = 0
        self._frozen_at = window
        self._faults.restart(window)
        self._loop(window + int(duration * 1e9), stop, compare=True)
        self._compare()
        end = clock()
        self._poll_quotas()
        time.sleep(SLACK_NS / 1e9)
        self._drain()
        self._process(end)
        self._share_gaps()
        ended = self._resolve(at_end=True)
        self._tracker.end_window(end)
        if self._quotas:  # the kernel tells of a throttling when that ends
            longest = max(poll.quota.period_ns for poll in self._quotas.values())
            self._loop(end + min(longest + 2 * int(POLL_S * 1e9), MOST_PERIOD_NS), stop)
            self._process(clock())
        return self._finish(window, end, ended)

    def all_ended(self) -> bool:
        """Whether the threads of all vCPUs have ended."""
        return all(
            reader.run_delay() is None for followed in self._followed for reader in followed.readers.values()
        )

    # Setting up.

    def _follow(self, followed: _Followed) -> None:
        vm = followed.vm
        for vcpu in vm.vcpus:
            if vcpu.tid is None:
                continue
            try:
                reader = ThreadReader(vm.pid, vcpu.tid, self._proc)
            except ProcessLookupError:
                continue
            self._stack.callback(reader.close)
            figures = reader.read()
            if figures is None:
                continue
            followed.readers[vcpu.tid] = reader
            self._faults.add(vcpu.tid, reader)
            self._cpus[vcpu.tid] = figures.cpu
            self._vm_of[vcpu.tid] = vm
            for quota in self._mounts.quotas(self._mounts.membership(vm.pid, vcpu.tid)):
                self._quotas.setdefault(quota.directory, _QuotaPoll(quota, [])).tids.append(vcpu.tid)

    def _open_rings(self) -> None:
        with tracefs() as system:
            switch, wakeup, wakeup_new, migrate = (system.tracepoint(name) for name in TRACEPOINTS)
        online = parse_cpus(Path("/sys/devices/system/cpu/online").read_text())
        pages = MOST_PAGES
        while pages > 16 and pages * 4096 * 1.5 * len(online) > RING_BYTES:
            pages //= 2
        kinds = (
            (pages, [switch], _SWITCH),
            (pages // 4, [wakeup, wakeup_new], ("pid", "target_cpu")),
            (pages // 4, [migrate], ("pid", "dest_cpu")),
        )
        enter = self._stack.enter_context
        rings = [[enter(perf_ring(cpu, *kind)) for cpu in sorted(online)] for kind in kinds]
        self._switches, self._wakeups, self._migrations = rings
        self._rings: list[PerfRing] = [ring for each in rings for ring in each]
        if len(self._vm_of) <= MAX_FILTERED:
            chosen = "||".join(f"pid=={tid}" for tid in self._vm_of)
            for ring in (*self._wakeups, *self._migrations):
                ring.select(chosen)

    # While it traces.

    def _loop(self, until: int, stop: Callable[[], bool], *, compare: bool = False) -> None:
        polls = 0
        while (now := clock()) < until and not stop():
            self._poll_quotas()
            self._poll_freezers(now)
            self._faults.look(clock)
            if polls % DRAIN_EVERY == 0:
                self._drain()
                self._process(now - SLACK_NS)
                self._share_gaps()
                if compare:
                    self._compare()
            polls += 1
            time.sleep(max(0.0, min(POLL_S, (until - clock()) / 1e9)))
        self._drain()

    def _poll_quotas(self) -> None:
        for poll in self._quotas.values():
            now, read_at = read_quota(poll.quota, clock)
            if now is None:
                continue
            if poll.throttled_ns is not None and now.throttled_ns > poll.throttled_ns:
                self._increments.append(
                    (poll.read_at, read_at, now.throttled_ns - poll.throttled_ns, poll.tids)
                )
            poll.throttled_ns, poll.read_at = now.throttled_ns, read_at

    def _poll_freezers(self, now: int) -> None:
        for followed in self._followed:
            before = followed.frozen
            followed.frozen = self._mounts.frozen(followed.membership)
            if before and followed.frozen:
                followed.frozen_ns += now - self._frozen_at
        self._frozen_at = now

    _frozen_at = 0

    def _drain(self) -> None:
        events: list[Event] = []
        for ring in self._switches:
            cpu = ring.cpu
            events += [(record[0], cpu, record) for record in ring.drain()]
        for kind, rings in ((-1, self._wakeups), (-2, self._migrations)):
            for ring in rings:
                events += [(record[0], kind, record) for record in ring.drain()]
        self._events.add(events)

    def _process(self, until: int) -> None:
        """Have the tracker see the events until a time."""
        tracker = self._tracker
        for kind, record in self._events.take(until):
            if kind >= 0:
                tracker.switch(kind, record)
            elif kind == -1:
                tracker.wakeup(record)
            elif kind == -2:
                tracker.migrate(record)
            else:
                tracker.compare(*record)
        settled = until
        for at, (begin, end, throttled, tids) in enumerate(self._increments):
            if end > until:
                settled = begin
                del self._increments[:at]
                break
            tracker.throttle(tids, begin, end, throttled)
        else:
            self._increments.clear()
            settled = min([until, *(poll.read_at for poll in self._quotas.values())])
        tracker.settle(settled)
        for runner in tracker.new_runners:
            self._names.identify(runner)
        tracker.new_runners.clear()

    def _compare(self) -> None:
        """Read each vCPU's run_delay, at a moment in which it is not being put on a CPU."""
        compared: list[Event] = []
        for followed in self._followed:
            for tid, reader in followed.readers.items():
                before = reader.run_delay()
                for _ in range(8):
                    now = clock()
                    after = reader.run_delay()
                    if before == after:
                        break
                    before = after
                if before is not None and before == after:
                    compared.append((now, -3, (now, tid, *before)))
        self._events.add(compared)

    def _share_gaps(self) -> None:
        """Divide what threads have run that the kernel does not trace: /proc has that."""
        tracker = self._tracker
        tracker.complete = not any(ring.lost for ring in self._rings)
        for runner in list(tracker.gaps):
            tid = runner[0]
            ran, divided = self._ran_ns(tid), self._gap_runs.get(tid)
            if ran is None or divided is None or not tracker.complete:
                del tracker.gaps[runner]
                if ran is not None:
                    self._gap_runs[tid] = ran
            else:
                self._gap_runs[tid] = divided + tracker.share_gaps(runner, max(0, ran - divided))

    def _ran_ns(self, tid: int) -> int | None:
        """Return the CPU time of a thread; None: it has ended."""
        fields = (read_bytes(f"{self._proc}/{tid}/schedstat") or b"").split()
        return int(fields[0]) if len(fields) == 3 else None

    def _resolve(self, *, at_end: bool) -> set[tuple[int, int]]:
        """Resolve the vCPUs of which no event came by their states; return the VMs of those that ended.

        One that runs or waits at the beginning of the window is left to its next event.
        """
        ended = set()
        for followed in self._followed:
            for tid, reader in followed.readers.items():
                figures = reader.read()
                activity = Activity.SLEEPS
                if figures is None:
                    ended.add(followed.vm.key)
                elif figures.state == "R":
                    activity = Activity.RUNS if figures.ran_ns else Activity.WAITS
                elif figures.state in "Tt":
                    activity = Activity.STOPPED
                if at_end or activity in (Activity.SLEEPS, Activity.STOPPED):
                    self._tracker.resolve(tid, activity)
        return ended

    # The result.

    def _finish(self, begin: int, end: int, ended: set[tuple[int, int]]) -> WhoResult:
        tracker = self._tracker
        tracker.finish(clock())
        for runner in tracker.new_runners:
            self._names.identify(runner)
        vms = [
            VmCauses(
                followed.vm,
                followed.vm.key in ended,
                followed.frozen_ns,
                tuple(
                    self._vcpu_causes(vcpu, followed, end - begin)
                    for vcpu in followed.vm.vcpus
                    if vcpu.tid in followed.readers
                ),
            )
            for followed in self._followed
        ]
        notes = []
        if lost := sum(ring.lost for ring in self._rings):
            notes.append(
                f"{lost} records were lost: this host switches threads faster than they could be read"
            )
        if tracker.lost_switches:
            notes.append(
                f"{tracker.lost_switches} switches left no record: this kernel does not trace some threads. "
                "What those ran is divided among the times in which they may have run"
            )
        if tracker.dropped_spans:
            notes.append(f"the picture ends early: {tracker.dropped_spans} pieces did not fit")
        spans = tuple(
            (
                tid,
                activity,
                low,
                high,
                self._names.row(runner, self._vm_of[tid], high - low) if runner else None,
            )
            for tid, activity, low, high, runner in tracker.spans
        )
        return WhoResult(end - begin, tuple(vms), tuple(notes), begin, spans)

    def _vcpu_causes(self, vcpu: HostVcpu, followed: _Followed, elapsed: int) -> VcpuCauses:
        assert vcpu.tid is not None
        found = self._tracker.vcpus[vcpu.tid]
        times = found.times
        blocked = times[Activity.SLEEPS]
        frozen = min(blocked, followed.frozen_ns)
        return VcpuCauses(
            vcpu,
            elapsed,
            times[Activity.RUNS],
            times[Activity.WAITS],
            blocked - frozen,
            times[Activity.STOPPED] + frozen,
            min(blocked - frozen, self._faults.faults_ns(vcpu.tid)),
            found.longest_ns,
            tuple(sum_rows(self._names.row(runner, followed.vm, ns) for runner, ns in found.causes.items())),
            found.counted_ns,
            found.missing_ns,
        )
