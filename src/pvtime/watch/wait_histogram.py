# SPDX-License-Identifier: GPL-2.0-or-later
"""A histogram of vCPUs' waits for a CPU, traced for as long as it is wanted.

run_delay is a sum: ten thousand waits of 0.1 ms and one of 1 s are the same to it, and a guest notices the
latter. The records of the followed threads alone are had from the kernel, while they are few enough for its
filter.
"""

from __future__ import annotations

import bisect
import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from pvtime.host.perf import PerfRing, perf_ring
from pvtime.host.tracefs import require_host_pids, tracefs
from pvtime.watch.counters import Labels
from pvtime.watch.event_queue import Event, EventQueue
from pvtime.watch.sampler import parse_cpus

__all__ = ["BOUNDS_S", "WaitHistogram", "WaitPairs", "WaitTracer"]

BOUNDS_S: Final = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Upper bounds of the buckets, in seconds."""
REMEMBERED: Final = 20_000
"""vCPUs whose histogram is known, those of VMs that have ended too."""
MAX_FILTERED: Final = 100
"""Threads in the filter of the kernel's: its text must fit a page."""
PAGES: Final = 256
"""Of a CPU's ring: records of 0.5 s at 20,000 switches a second, where nothing is filtered."""
PERIOD_S: Final = 0.2
SLACK_NS: Final = 20_000_000
"""A record may come this much later into its ring than its time."""
NO_SWITCH: Final = "prev_pid==0&&next_pid==0"
NO_WAKEUP: Final = "pid==0"
"""Filters that nothing passes."""
_SWITCH: Final = ("prev_pid", "prev_state", "next_pid")
_WAKEUP: Final = ("pid",)
_SWITCH_KIND, _WAKEUP_KIND = 0, 1
_STATES: Final = 0xFF
"""States of a thread in sched_switch; 0: it is runnable, and was preempted."""


class WaitHistogram:
    """A vCPU's waits by their length."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        """Waits in each bucket alone; the last has no bound."""
        self.sum_ns = 0

    def add(self, ns: int) -> None:
        """Count a wait."""
        self.counts[bisect.bisect_left(BOUNDS_S, ns / 1e9)] += 1
        self.sum_ns += ns

    def buckets(self) -> list[tuple[str, float]]:
        """Return the bounds and the number of waits up to each, as Prometheus has them."""
        total, found = 0, []
        for bound, count in zip((*(f"{bound:g}" for bound in BOUNDS_S), "+Inf"), self.counts, strict=True):
            total += count
            found.append((bound, float(total)))
        return found


class WaitPairs:
    """Pairs of a wait's beginning and its end, of the threads that are followed."""

    def __init__(self) -> None:
        self._names: dict[int, Labels] = {}
        self._since: dict[int, int] = {}
        self._running: set[int] = set()
        self.histograms: OrderedDict[Labels, WaitHistogram] = OrderedDict()

    def follow(self, names: Mapping[int, Labels]) -> None:
        """Follow these threads, by the labels of their vCPUs, and no others."""
        self._names = dict(names)
        for tid in self._since.keys() - names.keys():
            del self._since[tid]
        self._running &= names.keys()
        for labels in names.values():
            self.histograms.setdefault(labels, WaitHistogram())
            self.histograms.move_to_end(labels)
        while len(self.histograms) > max(REMEMBERED, len(names)):
            self.histograms.popitem(last=False)

    def switch(self, now: int, before: int, state: int, after: int) -> None:
        """Take a switch from one thread to another."""
        if before in self._names:
            self._running.discard(before)
            self._since.pop(before, None)
            if state & _STATES == 0:
                self._since[before] = now
        if after in self._names:
            self._running.add(after)
            begin = self._since.pop(after, None)
            if begin is not None:
                self.histograms[self._names[after]].add(now - begin)

    def wakeup(self, now: int, tid: int) -> None:
        """Take a wake-up: the thread waits from now on, unless it runs or waits already."""
        if tid in self._names and tid not in self._running:
            self._since.setdefault(tid, now)


class WaitTracer:
    """Traces the waits of the threads that it is told, in a thread of its own.

    :raises UsageError: this host, kernel or user cannot trace.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pairs = WaitPairs()
        self._queue = EventQueue()
        self._followed: frozenset[int] = frozenset()
        self._lost = 0
        self._stop = threading.Event()
        require_host_pids("pvtime export --waits")
        self._rings = _Rings(self._followed)
        self._thread = threading.Thread(target=self._run, name="waits", daemon=True)
        self._thread.start()

    def follow(self, names: Mapping[int, Labels]) -> None:
        """Follow these threads, by the labels of their vCPUs, and no others."""
        with self._lock:
            self._pairs.follow(names)
            if self._followed == names.keys():
                return
            # A filter cannot be changed (perf_event_set_filter). What both rings have changes nothing twice.
            followed = frozenset(names)
            rings, old = _Rings(followed), self._rings
            self._followed, self._rings = followed, rings
            self._queue.add(old.drain())
            self._lost += old.lost
            old.close()

    def histograms(self) -> list[tuple[Labels, list[tuple[str, float]], float]]:
        """Return each vCPU's labels, buckets, and the sum of its waits in seconds."""
        with self._lock:
            return [
                (labels, histogram.buckets(), histogram.sum_ns / 1e9)
                for labels, histogram in self._pairs.histograms.items()
            ]

    @property
    def lost(self) -> int:
        """Return how many records the kernel had no room for."""
        with self._lock:
            return self._lost + self._rings.lost

    def close(self) -> None:
        """End the tracing."""
        self._stop.set()
        self._thread.join()
        self._rings.close()

    def _run(self) -> None:
        while not self._stop.wait(PERIOD_S):
            with self._lock:
                self._take(time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW) - SLACK_NS)

    def _take(self, until: int) -> None:
        self._queue.add(self._rings.drain())
        for kind, record in self._queue.take(until):
            if kind == _SWITCH_KIND:
                self._pairs.switch(*record)
            else:
                self._pairs.wakeup(*record)


class _Rings:
    """Rings of all CPUs with the records of some threads, or of all where those are too many for a filter."""

    def __init__(self, tids: Collection[int]) -> None:
        with tracefs() as system:
            switch, wakeup, new = (
                system.tracepoint(name) for name in ("sched_switch", "sched_wakeup", "sched_wakeup_new")
            )
        online = sorted(parse_cpus(Path("/sys/devices/system/cpu/online").read_text()))
        self._stack = ExitStack()
        try:
            enter = self._stack.enter_context
            self._switches = [enter(perf_ring(cpu, PAGES, [switch], _SWITCH)) for cpu in online]
            self._wakeups = [enter(perf_ring(cpu, PAGES // 4, [wakeup, new], _WAKEUP)) for cpu in online]
            if len(tids) <= MAX_FILTERED:
                for ring in self._switches:
                    ring.select("||".join(f"prev_pid=={tid}||next_pid=={tid}" for tid in tids) or NO_SWITCH)
                for ring in self._wakeups:
                    ring.select("||".join(f"pid=={tid}" for tid in tids) or NO_WAKEUP)
            for ring in self._all():
                ring.enable()
        except BaseException:
            self._stack.close()
            raise

    @property
    def lost(self) -> int:
        """Return how many records the kernel had no room for."""
        return sum(ring.lost for ring in self._all())

    def drain(self) -> list[Event]:
        """Return the events since the last call."""
        kinds = ((_SWITCH_KIND, self._switches), (_WAKEUP_KIND, self._wakeups))
        return [
            (record[0], kind, record) for kind, rings in kinds for ring in rings for record in ring.drain()
        ]

    def close(self) -> None:
        """End the tracing."""
        self._stack.close()

    def _all(self) -> list[PerfRing]:
        return [*self._switches, *self._wakeups]
