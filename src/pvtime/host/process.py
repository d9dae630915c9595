# SPDX-License-Identifier: GPL-2.0-or-later
"""Processes and threads as /proc tells of them (proc(5)).

Any of them may end between two readings, so all functions here return None, or nothing, for one that has
gone. An identifier is used again after that: a process is known by its identifier and its start time.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from pvtime.records import dataclass

__all__ = [
    "PROC",
    "ThreadState",
    "command_line",
    "kvm_run_fd",
    "parse_stat",
    "process_ids",
    "read_bytes",
    "thread_ids",
    "thread_state",
]

PROC: Final = Path("/proc")
_STAT_LENGTH: Final = 1024
_COMMAND_LENGTH: Final = 1 << 16
"""Bytes of a command line that are looked at; it may have megabytes."""
_KVM_RUN: Final = 0xAE80
"""The ioctl's request number, on every architecture."""


@dataclass(frozen=True)
class ThreadState:
    """A thread's fields of ``stat``."""

    name: bytes
    state: str
    """One letter: R is running or runnable, S and D are asleep, T and t are stopped, Z and X have ended."""
    parent: int
    start_ticks: int
    """Start time since the host's boot, in ticks of sysconf(_SC_CLK_TCK)."""
    cpu: int
    """The CPU on which it ran last."""

    @property
    def stopped(self) -> bool:
        """Whether a signal or a debugger has stopped it."""
        return self.state in "Tt"

    @property
    def ended(self) -> bool:
        """Whether it only waits for its parent to notice its end."""
        return self.state in "ZXx"


def read_bytes(path: str | Path, length: int = _STAT_LENGTH) -> bytes | None:
    """Return the beginning of a file; None if it has gone or is another user's."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(fd, length)
    except OSError:  # ESRCH: the thread ended after the open
        return None
    finally:
        os.close(fd)


def parse_stat(line: bytes) -> ThreadState | None:
    """Parse ``stat``; the name in its parentheses may have any character in it, these too."""
    head, _, tail = line.rpartition(b")")
    _, parenthesis, name = head.partition(b"(")
    fields = tail.split()
    if not parenthesis or len(fields) < 37:
        return None
    try:
        return ThreadState(name, fields[0].decode("ascii"), int(fields[1]), int(fields[19]), int(fields[36]))
    except ValueError:
        return None


def thread_state(directory: str | Path) -> ThreadState | None:
    """Return the state of the process or thread of a directory in /proc."""
    line = read_bytes(f"{directory}/stat")
    return parse_stat(line) if line else None


def command_line(pid: int, proc: Path = PROC) -> list[bytes]:
    """Return a process's arguments, as far as the first 64 KiB have them; none for a kernel thread."""
    text = read_bytes(f"{proc}/{pid}/cmdline", _COMMAND_LENGTH) or b""
    return text.rstrip(b"\0").split(b"\0") if text else []


def process_ids(proc: Path = PROC) -> list[int]:
    """Return the identifiers of all processes that this user can see."""
    return _numbers(proc)


def kvm_run_fd(syscall: bytes) -> int | None:
    """Return the vCPU's file on which a thread has called KVM_RUN and does not run, by its ``syscall``.

    >>> kvm_run_fd(b"29 0xb 0xae80 0x0 0x0 0x0 0x0 0xffffc5d0 0xffff9a1c")
    11

    None: it is in another system call, on a CPU, or waits for one. Source: proc_pid_syscall in the kernel's
    fs/proc/base.c: the number of ioctl, which is the architecture's, the file, the request, and so on.
    """
    fields = syscall.split()
    try:
        fd, request = int(fields[1], 16), int(fields[2], 16)
    except (IndexError, ValueError):
        return None
    return fd if request == _KVM_RUN else None


def thread_ids(pid: int, proc: Path = PROC) -> list[int]:
    """Return the identifiers of a process's threads."""
    return _numbers(f"{proc}/{pid}/task")


def _numbers(directory: str | Path) -> list[int]:
    try:
        return [int(name) for name in os.listdir(directory) if name.isdecimal()]
    except OSError:
        return []
