# SPDX-License-Identifier: GPL-2.0-or-later
"""Attribution of vCPUs' waits, from the scheduler's events: who had the CPU meanwhile.

A vCPU's thread waits from the moment it is preempted, or woken, until it is put on a CPU: that is what the
kernel adds to run_delay (kernel/sched/stats.h, sched_info_arrive). Each wait is cut into pieces by what ran
on the CPU whose queue the thread was in. Afterwards the time for which a quota throttled the thread is taken
out of them (:meth:`WaitTracker.throttle`): nobody took that from it.

Events come in the order of their times; those of vCPUs that are not followed only cut the pieces.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from pvtime.watch.waits import (
    IDLE,
    OTHERS,
    QUOTA,
    UNKNOWN,
    Activity,
    Gap,
    Migrate,
    Runner,
    Switch,
    VcpuActivity,
    Wait,
    Wakeup,
    divide,
    merged,
    without,
)

__all__ = ["MAX_RUNNERS", "WaitTracker"]

MAX_RUNNERS: Final = 20_000
"""Threads that are told apart: a host may start any number meanwhile."""
MAX_GAPS: Final = 10_000
"""Of a thread, until they are taken."""
_STATES: Final = 0xFF
"""States of a thread in sched_switch; 0: it is runnable, and was preempted."""
_SETTLED_NS: Final = 1_000_000_000
"""After an arrival, time in which the kernel has surely counted it. A vCPU that is put on a CPU more often is
not refused for ever: half of it will do the next time."""
_STOPPED: Final = 0x04 | 0x08
"""TASK_STOPPED and TASK_TRACED (include/linux/sched.h)."""


class WaitTracker:
    """Follows vCPUs' threads.

    :param begin: where the window begins, in the events' time.
    :param cpus: the CPU that each thread ran on last, by thread.
    :param limited: threads that a quota limits: their waits are settled by :meth:`settle` alone.
    :param record: keep every piece and activity, for a picture, up to so many.
    """

    def __init__(
        self, begin: int, cpus: dict[int, int], limited: Iterable[int] = (), record: int = 0
    ) -> None:
        self.vcpus = {tid: VcpuActivity(tid, since=begin) for tid in cpus}
        self.spans: list[tuple[int, str, int, int, Runner | None]] = []
        """For a picture: thread, activity, begin, end, and who ran in a wait."""
        self.dropped_spans = 0
        self.lost_switches = 0
        """Switches of which the records before and after tell, and no record."""
        self.complete = True
        """No record was lost in a ring: a gap is of two threads."""
        self.gaps: defaultdict[Runner, list[Gap]] = defaultdict(list)
        """By the thread that left its CPU without a record; :meth:`share_gaps` takes them."""
        self.new_runners: list[Runner] = []
        """Those that had the CPU of a waiting vCPU since the caller emptied the list."""
        self._runners: set[Runner] = {IDLE, UNKNOWN}
        self._limit = record
        self._begin = begin
        self._limited = set(limited)
        self._waits: dict[int, Wait] = {}
        self._queues: defaultdict[int, dict[int, int]] = defaultdict(dict)
        """By CPU: the threads in its queue, and the time up to which their waits are cut."""
        self._queue_of: dict[int, int] = {}
        self._running: dict[int, Runner] = {}
        self._since: dict[int, int] = {}
        """By CPU: the last switch."""
        self._ended: list[Wait] = []
        self._end: int | None = None
        for tid, cpu in cpus.items():  # it may be waiting already: the first event tells
            self._enqueue(begin, tid, cpu)

    def switch(self, cpu: int, event: Switch) -> None:
        """Take a switch from one thread to another on a CPU."""
        now, name, before, state, next_name, after = event
        running = self._running.get(cpu, UNKNOWN)
        broken = running[0] != before and running is not UNKNOWN
        if broken:
            self._lose(now, running[0])
        queue = self._queues.get(cpu)
        if broken:
            self._cut_gap(now, cpu, (before, name), running)
        elif queue:
            runner = (before, name) if before else IDLE
            for tid, cut in queue.items():
                if tid != before:
                    self._cut(tid, cut, now, runner)
                    queue[tid] = now
        self._running[cpu] = (after, next_name) if after else IDLE
        self._since[cpu] = now
        if before in self.vcpus:
            self._depart(now, cpu, before, state, running)
        if after in self.vcpus:
            self._arrive(now, after)

    def wakeup(self, event: Wakeup) -> None:
        """Take a wake-up: the thread waits from now on, unless it runs or waits already."""
        now, tid, cpu = event
        vcpu = self.vcpus.get(tid)
        if vcpu is None or vcpu.activity in (Activity.RUNS, Activity.WAITS):
            return
        if vcpu.activity is Activity.UNKNOWN:
            self._dequeue(tid)
            self._waits.pop(tid, None)
            vcpu.activity = Activity.SLEEPS
        self._become(vcpu, Activity.WAITS, now)
        self._enqueue(now, tid, cpu)

    def migrate(self, event: Migrate) -> None:
        """Take a move to another CPU's queue."""
        now, tid, cpu = event
        if tid in self._queue_of:
            old = self._queue_of[tid]
            self._cut(tid, self._queues[old][tid], now, self._running.get(old, UNKNOWN))
            self._count(self.vcpus[tid], self._waits[tid], now)
            self._dequeue(tid)
            self._queue_of[tid] = cpu
            self._queues[cpu][tid] = now

    def throttle(self, tids: Iterable[int], begin: int, end: int, throttled_ns: int) -> None:
        """Take the time for which a quota kept threads from running: an increment of throttled_time.

        The kernel adds it when the throttling ends, which was between ``begin`` and ``end``. It is divided
        among the waits of then: none gets more than it lasted until that moment, and all get the same below
        that.
        """
        if throttled_ns <= 0:
            return
        waits = [wait for wait in self._limited_waits(set(tids)) if wait.begin < end]
        waits = [wait for wait in waits if wait.end is None or wait.end > begin]
        ends = [wait.end for wait in waits if wait.end is not None and wait.end <= end]
        last = max(ends, default=end)
        spans = [(wait, min(last, wait.end or last)) for wait in waits]
        spans.sort(key=lambda span: span[0].begin - span[1])  # the longest first
        while throttled_ns > 0 and spans:
            # Where periods are short, several waits of one thread end between two readings.
            longest = {wait.tid: (wait, until) for wait, until in reversed(spans)}
            shares = divide(throttled_ns, [until - wait.begin for wait, until in longest.values()])
            for (wait, until), share in zip(longest.values(), shares, strict=True):
                if share:
                    wait.throttled.append((until - share, until))
            throttled_ns -= sum(shares)
            spans = [span for span in spans if span not in longest.values()]

    def settle(self, until: int) -> None:
        """Settle the waits that ended before ``until``: what throttled them is known by now."""
        kept = []
        for wait in self._ended:
            assert wait.end is not None
            if wait.end < until:
                self._settle(wait)
            else:
                kept.append(wait)
        self._ended = kept

    def end_window(self, end: int) -> None:
        """End the window here. What follows only tells whether a quota throttled those who wait now."""
        self._cut_all(end)
        for vcpu in self.vcpus.values():
            self._become(vcpu, vcpu.activity, end)
        self._end = end

    def finish(self, end: int) -> None:
        """Settle all waits, those that last too; without :meth:`end_window`, end the window."""
        self._cut_all(end)
        for vcpu in self.vcpus.values():
            if vcpu.activity is Activity.WAITS:
                wait = self._waits.pop(vcpu.tid)
                wait.end = end
                self._ended.append(wait)
            self._become(vcpu, vcpu.activity, end)
        self.settle(end + 1)

    def _cut_all(self, end: int) -> None:
        for cpu, queue in self._queues.items():
            for tid, cut in queue.items():
                self._cut(tid, cut, end, self._running.get(cpu, UNKNOWN))
                queue[tid] = end

    def restart(self, begin: int) -> None:
        """Begin the window here: forget what was until now, but not who waits, runs or sleeps."""
        for cpu, queue in self._queues.items():
            for tid in queue:
                queue[tid] = begin
                wait = self._waits[tid]
                wait.before_ns += begin - wait.begin
                wait.begin = begin
                wait.pieces, wait.throttled = [], []
                wait.causes.clear()
            self._running.setdefault(cpu, UNKNOWN)
        self.gaps.clear()
        self._ended.clear()
        self.spans.clear()
        for vcpu in self.vcpus.values():
            vcpu.since = begin
            vcpu.times.clear()
            vcpu.causes.clear()
            vcpu.unseen_arrivals.clear()
            vcpu.longest_ns = 0

    def compare(self, now: int, tid: int, run_delay_ns: int, timeslices: int) -> None:
        """Compare with a thread's run_delay, read now: no event of the thread is left out.

        The record of an arrival is written before the kernel counts it. A comparison in between is left out:
        it would have a whole wait too much.
        """
        vcpu = self.vcpus[tid]
        wait = self._waits.get(tid)
        if vcpu.activity is Activity.UNKNOWN or (wait is not None and not wait.seen):
            return
        uncounted = vcpu.arrivals - timeslices
        if vcpu.checked is None:
            if vcpu.activity is Activity.RUNS and now - vcpu.arrived < _SETTLED_NS >> vcpu.refused:
                vcpu.refused += 1
            else:
                vcpu.checked, vcpu.uncounted = (vcpu.waited_ns, run_delay_ns), uncounted
            return
        if uncounted > vcpu.uncounted:
            return
        waited, before = vcpu.checked
        missing = vcpu.missing_ns
        vcpu.counted_ns = run_delay_ns - before
        vcpu.missing_ns = vcpu.counted_ns - (vcpu.waited_ns - waited)
        if vcpu.unseen_arrivals:
            self._find_arrivals(vcpu, vcpu.missing_ns - missing)

    def _find_arrivals(self, vcpu: VcpuActivity, waited_ns: int) -> None:
        """Divide what run_delay has grown by among the spans in which no arrival was recorded."""
        spans = vcpu.unseen_arrivals
        if self._end is None and waited_ns > 0:
            for share, (_, runner) in zip(
                divide(waited_ns, [length for length, _ in spans]), spans, strict=True
            ):
                # Where it had a quota, that may have been used up while the CPU was idle.
                idle_or_quota = runner == IDLE and vcpu.tid in self._limited
                vcpu.causes[UNKNOWN if idle_or_quota else self._known(runner)] += share
                vcpu.times[Activity.RUNS] -= share
                vcpu.times[Activity.WAITS] += share
                vcpu.waited_ns += share
                vcpu.missing_ns -= share
        spans.clear()

    def share_gaps(self, runner: Runner, ran_ns: int) -> int:
        """Divide what a thread without records has run among its gaps; return how much of it was divided.

        It ran at the beginning of each, and who left the CPU at the end ran from then on.
        """
        gaps = self.gaps.pop(runner, [])
        shares = divide(ran_ns, [gap.length_ns for gap in gaps])
        for gap, share in zip(gaps, shares, strict=True):
            for tid, waited in gap.waits:
                first = max(0, share - (gap.length_ns - waited))
                causes = self.vcpus[tid].causes
                causes[UNKNOWN] -= waited
                causes[self._known(runner)] += first
                causes[self._known(gap.last)] += waited - first
        return sum(shares)

    def pending_ns(self, tid: int, now: int) -> int:
        """Return how long a thread has been waiting in a wait that has not ended; 0: it does not wait."""
        vcpu = self.vcpus[tid]
        return now - self._waits[tid].begin if vcpu.activity is Activity.WAITS else 0

    def resolve(self, tid: int, activity: Activity) -> None:
        """Say what a thread of which no event came has done all the time."""
        vcpu = self.vcpus[tid]
        if vcpu.activity is Activity.UNKNOWN:
            vcpu.activity = activity
            if activity is not Activity.WAITS:
                self._dequeue(tid)
                self._waits.pop(tid, None)

    def _limited_waits(self, tids: set[int]) -> list[Wait]:
        """Return the waits of threads that may still be throttled time; of those that last, not UNKNOWN."""
        current = [
            wait
            for tid, wait in self._waits.items()
            if tid in tids and self.vcpus[tid].activity is not Activity.UNKNOWN
        ]
        return [wait for wait in self._ended if wait.tid in tids] + current

    def _depart(self, now: int, cpu: int, tid: int, state: int, running: Runner) -> None:
        """Take a vCPU from its CPU.

        :param running: the thread that had the CPU, by the record before.
        """
        vcpu = self.vcpus[tid]
        if vcpu.activity is Activity.WAITS:  # its arrival was lost, and came after the last cut
            cut = self._queues[self._queue_of[tid]][tid]
            self._arrive(cut, tid)
            vcpu.uncounted += 1  # the kernel may have had it at the first comparison
            vcpu.unseen_arrivals.append((now - cut, running))
        elif vcpu.activity is not Activity.RUNS:  # it ran before the tracing began
            self._dequeue(tid)
            self._waits.pop(tid, None)
            vcpu.activity = Activity.RUNS
        if state & _STATES == 0:
            self._become(vcpu, Activity.WAITS, now)
            self._enqueue(now, tid, cpu)
        else:
            self._become(vcpu, Activity.STOPPED if state & _STOPPED else Activity.SLEEPS, now)

    def _lose(self, now: int, running: int) -> None:
        """Note that a thread left its CPU without a record. A kernel may trace some threads not at all."""
        self.lost_switches += 1
        vcpu = self.vcpus.get(running)
        if vcpu is not None and vcpu.activity is Activity.RUNS:
            self._become(vcpu, Activity.UNKNOWN, now)
            self._enqueue(now, running, -1)

    def _cut_gap(self, now: int, cpu: int, last: Runner, first: Runner) -> None:
        """Cut the waits on a CPU that one thread left without a record, and another with one."""
        queue = self._queues.get(cpu, {})
        waits = []
        for tid, cut in queue.items():
            if tid == last[0]:
                continue
            queue[tid] = now
            plain = self.complete and not self._limit and tid not in self._limited and self._end is None
            if plain and first == IDLE:  # a CPU does not stay idle when a thread waits there
                self._cut(tid, cut, now, last if last[0] else IDLE)
                continue
            self._cut(tid, cut, now, UNKNOWN)
            if plain and self.vcpus[tid].activity is Activity.WAITS:
                waits.append((tid, now - cut))
        if first != IDLE and self.complete:
            gaps = self.gaps[first]
            gaps.append(Gap(now - self._since.get(cpu, now), last if last[0] else IDLE, tuple(waits)))
            if len(gaps) > MAX_GAPS:
                del gaps[0]

    def _arrive(self, now: int, tid: int) -> None:
        vcpu = self.vcpus[tid]
        vcpu.arrivals += 1
        vcpu.arrived = now
        if vcpu.activity is Activity.UNKNOWN:
            vcpu.activity = Activity.WAITS
        wait = self._waits.pop(tid, None)
        self._dequeue(tid)
        self._become(vcpu, Activity.RUNS, now)
        if wait is not None:
            wait.end = now
            self._count(vcpu, wait, now)
            vcpu.longest_ns = max(vcpu.longest_ns, now - wait.begin)
            if tid in self._limited:
                self._ended.append(wait)
            else:
                self._settle(wait)

    @staticmethod
    def _count(vcpu: VcpuActivity, wait: Wait, now: int) -> None:
        """Count what run_delay has grown by."""
        waited = wait.before_ns + now - wait.begin
        vcpu.waited_ns += waited - wait.counted_ns
        wait.counted_ns = waited

    def _become(self, vcpu: VcpuActivity, activity: Activity, now: int) -> None:
        now = now if self._end is None else min(now, self._end)
        vcpu.times[vcpu.activity] += max(0, now - vcpu.since)
        if self._limit and vcpu.activity is not Activity.WAITS and now > vcpu.since:
            self._span(vcpu.tid, vcpu.activity.value, vcpu.since, now, None)
        vcpu.activity, vcpu.since = activity, now

    def _enqueue(self, now: int, tid: int, cpu: int) -> None:
        self._waits[tid] = Wait(tid, now, self.vcpus[tid].activity is not Activity.UNKNOWN)
        self._queue_of[tid] = cpu
        self._queues[cpu][tid] = now

    def _dequeue(self, tid: int) -> None:
        cpu = self._queue_of.pop(tid, None)
        if cpu is not None:
            self._queues[cpu].pop(tid, None)

    def _cut(self, tid: int, begin: int, end: int, runner: Runner) -> None:
        if end <= begin or (self._end is not None and tid not in self._limited):
            return
        runner = self._known(runner)
        wait = self._waits[tid]
        if not self._limit and tid not in self._limited:
            wait.causes[runner] += end - begin
        elif wait.pieces and wait.pieces[-1][1:] == (begin, runner):
            wait.pieces[-1] = (wait.pieces[-1][0], end, runner)
        else:
            wait.pieces.append((begin, end, runner))

    def _known(self, runner: Runner) -> Runner:
        """Return the runner, or :data:`OTHERS` where too many are told apart already."""
        if runner in self._runners:
            return runner
        if len(self._runners) >= MAX_RUNNERS:
            return OTHERS
        self._runners.add(runner)
        self.new_runners.append(runner)
        return runner

    def _settle(self, wait: Wait) -> None:
        if self._end is not None:
            wait.clip(self._end)
        causes = self.vcpus[wait.tid].causes
        totals = wait.totals()
        for runner, ns in totals.items():
            causes[runner] += ns
        end = wait.begin if wait.end is None else wait.end
        causes[UNKNOWN] += end - wait.begin - sum(totals.values())  # a switch was lost
        if self._limit:
            throttled = merged(wait.throttled)
            for begin, until, runner in wait.pieces:
                for low, high in without(begin, until, throttled):
                    self._span(wait.tid, Activity.WAITS.value, low, high, runner)
            for begin, until in throttled:
                self._span(wait.tid, Activity.WAITS.value, begin, until, QUOTA)

    def _span(self, tid: int, activity: str, begin: int, end: int, runner: Runner | None) -> None:
        if len(self.spans) < self._limit:
            self.spans.append((tid, activity, begin, end, runner))
        else:
            self.dropped_spans += 1
