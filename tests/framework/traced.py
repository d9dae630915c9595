# SPDX-License-Identifier: GPL-2.0-or-later
"""Steps that a test takes while ``pvtime who`` traces, a thread that steals, and figures that are checked."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from framework.wait import wait_until
from pvtime.host.process import thread_state
from pvtime.watch.causes import CauseKind, VcpuCauses, VmCauses
from pvtime.watch.verdict import PART, verdicts
from pvtime.watch.who import WhoSession

__all__ = [
    "ENOUGH_NS",
    "Course",
    "act",
    "check_quota",
    "check_sums",
    "hog",
    "is_stopped",
    "next_round",
    "only",
    "ran_ns",
    "row_of",
    "theft",
    "throttling",
]

ENOUGH_NS = 400_000_000
"""CPU time that a thread which steals takes."""


@contextlib.contextmanager
def hog(cpu: int) -> Iterator[int]:
    """Have a stopped process that computes on a CPU when it is continued."""
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", "while True: pass"]) as process:
        process.send_signal(signal.SIGSTOP)
        os.sched_setaffinity(process.pid, {cpu})
        try:
            wait_until(lambda: is_stopped(process.pid))
            yield process.pid
        finally:
            process.kill()


def is_stopped(pid: int, tid: int | None = None) -> bool:
    """Whether a thread of a process, by default its first, is stopped."""
    state = thread_state(f"/proc/{pid}/task/{tid or pid}")
    return state is not None and state.stopped


def ran_ns(pid: int) -> int:
    """Return how long a process's first thread has run."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0])


@dataclass
class Course:
    """Steps of a test while it is traced: each begins when the one before has happened."""

    session: WhoSession
    steps: list[Callable[[], bool]]
    _rounds: int = field(default=0)

    def run(self) -> VmCauses:
        """Return what was found of the one VM, from before the first step until after the last."""
        (found,) = self.run_all()
        return found

    def run_all(self) -> tuple[VmCauses, ...]:
        """Return what was found of each VM."""
        return self.session.run(600, self._done).vms

    def _done(self) -> bool:
        self._rounds += 1
        if not self.session.window_began:
            return False
        while self.steps and self.steps[0]():
            del self.steps[0]
        return not self.steps


def act(action: Callable[[], object]) -> Callable[[], bool]:
    """Return a step that does something, once."""

    def step() -> bool:
        action()
        return True

    return step


def next_round(later: int = 1) -> Callable[[], bool]:
    """Return a step that ends in the round after its first, or later by some rounds."""
    rounds = itertools.count()
    return lambda: next(rounds) >= later


def theft(thief: int) -> list[Callable[[], bool]]:
    """Return the steps in which a stopped process runs for :data:`ENOUGH_NS`, and is stopped again."""
    before = ran_ns(thief)
    return [
        act(lambda: os.kill(thief, signal.SIGCONT)),
        lambda: ran_ns(thief) - before >= ENOUGH_NS,
        act(lambda: os.kill(thief, signal.SIGSTOP)),
        lambda: is_stopped(thief),
    ]


def throttling(throttled: Callable[[], int]) -> tuple[list[Callable[[], bool]], list[int]]:
    """Return the steps in which a quota keeps a thread from running for :data:`ENOUGH_NS`, and its counts.

    :param throttled: returns the cgroup's count, in ns.
    """
    counted: list[int] = []
    steps = [
        act(lambda: counted.append(throttled())),
        # It is counted when it ends: one that began before the window is left out by this.
        lambda: throttled() > counted[0],
        act(lambda: counted.append(throttled())),
        lambda: throttled() - counted[1] >= ENOUGH_NS,
        act(lambda: counted.append(throttled())),
    ]
    return steps, counted


def check_quota(found: VmCauses, counted: list[int]) -> None:
    """Check what was found in the steps of :func:`throttling`."""
    vcpu = only(found)
    quota = row_of(vcpu, CauseKind.QUOTA)
    # Linux 6.18 counts from the moment at which the quota is used up; the thread runs on until its next exit
    # to user space.
    least = 0.99 * (counted[2] - counted[1]) - vcpu.ran_ns
    unknown = row_of(vcpu, CauseKind.UNKNOWN) + max(0, vcpu.missing_ns)
    assert least - unknown <= quota <= vcpu.stolen_ns, vcpu
    # A host that was busy itself may have taken so much more that the quota is no sentence.
    told = any(one.startswith("its own quota of CPU time: ") for one in verdicts(found))
    assert told is (quota >= PART * found.stolen_ns), vcpu


def only(found: VmCauses) -> VcpuCauses:
    """Return the VM's only vCPU, with its figures checked."""
    (vcpu,) = found.vcpus
    check_sums(vcpu)
    return vcpu


def check_sums(vcpu: VcpuCauses) -> None:
    """Check that rows and columns sum, to the nanosecond."""
    assert sum(row.ns for row in vcpu.rows) == vcpu.stolen_ns
    assert vcpu.ran_ns + vcpu.stolen_ns + vcpu.blocked_ns + vcpu.stopped_ns == vcpu.elapsed_ns


def row_of(vcpu: VcpuCauses, kind: CauseKind, pid: int | None = None) -> int:
    """Return a cause's time."""
    return sum(row.ns for row in vcpu.rows if row.kind is kind and pid in (None, row.pid))
