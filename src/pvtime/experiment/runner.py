# SPDX-License-Identifier: GPL-2.0-or-later
"""Running the jobs of an experiment: one on each free CPU, each pinned there."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from pvtime.errors import EngineError, UsageError
from pvtime.experiment.plan import Job, Plan, report_of

__all__ = ["free_cpus", "pending", "run_jobs"]

LOOK_S: Final = 0.5
"""Time over which the host's CPUs are watched."""

BUSY_SHARE: Final = 0.1
"""Share of its time from which on a CPU is busy."""

POLL_INTERVAL_S: Final = 0.05
FIELDS: Final = 8
"""Fields of a line of /proc/stat that exclude each other (proc(5)), idle and iowait among them."""


def cpu_times(text: str) -> dict[int, tuple[int, int]]:
    """Return what each CPU was busy, and all its time, in ticks, of the text of /proc/stat."""
    times = {}
    for line in text.splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name != "cpu":
            numbers = [int(field) for field in fields[:FIELDS]]
            times[int(name[3:])] = sum(numbers) - numbers[3] - numbers[4], sum(numbers)
    return times


def free_cpus(
    allowed: Sequence[int],
    read: Callable[[], str] = lambda: Path("/proc/stat").read_text(),
    sleep: Callable[[float], object] = time.sleep,
) -> tuple[list[int], dict[int, float]]:
    """Watch the host for a while; return the CPUs of ``allowed`` that are free, and each one's busy share."""
    before = cpu_times(read())
    sleep(LOOK_S)
    after = cpu_times(read())
    shares = {}
    for cpu in allowed:
        busy, total = (new - old for new, old in zip(after[cpu], before[cpu], strict=True))
        shares[cpu] = busy / total if total else 0.0
    return [cpu for cpu in allowed if shares[cpu] < BUSY_SHARE], shares


def pending(plan: Plan, directory: Path) -> list[Job]:
    """Return the jobs that have no report yet."""
    return [job for job in plan.jobs if not report_of(directory, job).exists()]


def run_jobs(
    plan: Plan,
    directory: Path,
    cpus: Sequence[int],
    progress: Callable[[Job, int, int], object],
) -> None:
    """Run what is pending, one job on each of ``cpus``. An interruption loses the jobs in progress alone.

    :param progress: called with each job that has ended, and how many of how many have.
    :raises UsageError: the run's options are impossible.
    :raises EngineError: a job failed.
    """
    todo = pending(plan, directory)
    total, done = len(todo), 0
    running: dict[int, _Running] = {}
    try:
        while todo or running:
            for cpu in cpus:
                if todo and cpu not in running:
                    # The first boots the machine that all restore.
                    if total - len(todo) and not done:
                        break
                    running[cpu] = _Running(plan, directory, todo.pop(0), cpu)
            for cpu, one in list(running.items()):
                if one.ended():
                    del running[cpu]
                    done += 1
                    progress(one.job, done, total)
            time.sleep(POLL_INTERVAL_S)
    finally:
        for one in running.values():
            one.kill()


class _Running:
    """A job that runs on a CPU. Its report has its name only when the run has ended well."""

    def __init__(self, plan: Plan, directory: Path, job: Job, cpu: int) -> None:
        self.job = job
        self._report = report_of(directory, job)
        self._partial = self._report.with_suffix(".partial")
        with _pinned(cpu):  # which the child inherits with its first instruction
            # Of its own session: Ctrl-C is for this process, and a run that it cut short would have a report.
            output = self._report.with_suffix(".out") if plan.has("--exec") else os.devnull
            with open(output, "wb") as stdout:
                self._process = subprocess.Popen(
                    plan.command(job, self._partial),
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                )

    def ended(self) -> bool:
        """Whether it has ended well.

        :raises PvtimeError: it failed.
        """
        code = self._process.poll()
        if code is None:
            return False
        assert self._process.stderr is not None
        said = self._process.stderr.read().decode("utf-8", "replace").strip().splitlines()
        self._process.stderr.close()
        if code:
            self._partial.unlink(missing_ok=True)
            kind = UsageError if code == UsageError.exit_code else EngineError
            reason = said[-1].removeprefix("pvtime: ") if said else f"exit code {code}"
            raise kind(f"{self.job.name} failed: {reason}")
        self._partial.rename(self._report)
        return True

    def kill(self) -> None:
        """End it, without a report."""
        self._process.kill()
        self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()
        self._partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _pinned(cpu: int) -> Iterator[None]:
    """Run the calling thread on one CPU for the time of a ``with`` block."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
