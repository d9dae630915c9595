# SPDX-License-Identifier: GPL-2.0-or-later
"""Scheduler statistics of threads, read again and again.

An open file of /proc belongs to its thread, not to the identifier: when the thread has ended it says so, also
where the identifier has a new owner. Reading an open one takes 1.4 us, opening it each time 7 us.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from pathlib import Path
from typing import Final

from pvtime.errors import UsageError
from pvtime.host.process import PROC, kvm_run_fd, parse_stat
from pvtime.records import dataclass

__all__ = ["ThreadFigures", "ThreadReader", "allow_many_files", "require_schedstat"]


SPARE_FILES: Final = 100
"""Open files that are left for everything else."""


@dataclass(frozen=True)
class ThreadFigures:
    """A thread's time since it started, in ns, and where it is."""

    ran_ns: int
    """Time on a CPU. The kernel brings it up to date at ticks and switches."""
    run_delay_ns: int
    """Time runnable and waiting for a CPU. A wait is added when it ends."""
    timeslices: int
    """The number of times that it was put on a CPU."""
    state: str
    """See :class:`pvtime.host.process.ThreadState`."""
    cpu: int
    """The CPU on which it ran last."""


class ThreadReader:
    """The statistics of one thread.

    :raises ProcessLookupError: there is no such thread.
    """

    def __init__(self, pid: int, tid: int, proc: Path = PROC) -> None:
        self._directory = f"{proc}/{pid}/task/{tid}"
        self._fds: dict[str, int] = {}
        self._start: int | None = None
        if self.read() is None:
            self.close()
            raise ProcessLookupError(errno.ESRCH, "no such thread", self._directory)

    def read(self) -> ThreadFigures | None:
        """Return the figures; None: the thread has ended."""
        schedstat, line = self._read("schedstat"), self._read("stat")
        state = parse_stat(line) if line else None
        fields = (schedstat or b"").split()
        if state is None or state.ended or len(fields) < 3:
            return None
        if self._start is None:
            self._start = state.start_ticks
        elif self._start != state.start_ticks:
            return None
        return ThreadFigures(int(fields[0]), int(fields[1]), int(fields[2]), state.state, state.cpu)

    def run_delay(self) -> tuple[int, int] | None:
        """Return run_delay, in ns, and the number of timeslices; None: the thread has ended."""
        fields = (self._read("schedstat") or b"").split()
        return (int(fields[1]), int(fields[2])) if len(fields) >= 3 else None

    def kvm_run_fd(self) -> int | None:
        """See :func:`pvtime.host.process.kvm_run_fd`."""
        return kvm_run_fd(self._read("syscall") or b"")

    def sleeps_in(self) -> str:
        """Return the kernel's function in which the thread sleeps; ``0``: it does not, or this is hidden."""
        return (self._read("wchan") or b"").decode("ascii", "replace").removesuffix("\n")

    def close(self) -> None:
        """Close the files."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    def _read(self, name: str) -> bytes | None:
        fd = self._fds.get(name)
        try:
            if fd is not None:
                return os.pread(fd, 1024, 0)
            fd = os.open(f"{self._directory}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise
            return None
        if fd < _most_kept():  # the lowest free number: a count of the open files
            self._fds[name] = fd
        try:
            return os.pread(fd, 1024, 0)
        except OSError:
            return None
        finally:
            if name not in self._fds:
                os.close(fd)


def allow_many_files() -> None:
    """Raise the limit of open files as far as this user may: two are kept open for each vCPU."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _most_kept() -> int:
    """Return the number of files that may stay open: any user may start VMs, or what looks like some."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft - SPARE_FILES if soft != resource.RLIM_INFINITY else 1 << 30


def require_schedstat(proc: Path = PROC) -> None:
    """Check that this host counts how long threads wait for a CPU.

    :raises UsageError: it does not.
    """
    try:
        slices = int((proc / "self/schedstat").read_text().split()[2])
    except (OSError, ValueError, IndexError):
        slices = 0
    if not slices:
        raise UsageError(
            f"{proc}/PID/schedstat is missing or empty: this kernel does not count how long threads wait for "
            "a CPU (it needs CONFIG_SCHED_INFO)"
        )
