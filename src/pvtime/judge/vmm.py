# SPDX-License-Identifier: GPL-2.0-or-later
"""A VMM that a command starts, as the subject of a judgement."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from pvtime.errors import UsageError
from pvtime.judge.console import CheckResult
from pvtime.judge.growth import Restored
from pvtime.judge.host_kvm import check_host_kvm
from pvtime.judge.monitor import LIMIT_S, ControlError, monitor_of, program_of
from pvtime.judge.subject import Subject
from pvtime.judge.thief import Thief, patient
from pvtime.judge.vcpu_threads import VcpuThreads, processes_below
from pvtime.lab import die_with_parent

__all__ = ["IMAGE", "Vmm"]

IMAGE: Final = "{image}"
"""Stands for the image's path in a VMM's command."""

_CHUNK: Final = 4096
_COMPLAINT: Final = 4000
"""Bytes that are kept of what a VMM says on standard error."""

USED_NS: Final = 600_000_000
"""A thread's wait for a CPU before the guest is restored on it; a busy host's bounds are narrower."""
USING_S: Final = 30.0
"""Time in which a thread gets that, or is taken as it is."""
VERSION_S: Final = 30.0
NAP_S: Final = 0.001
ENDING_S: Final = 1.0
"""Time in which a VMM that has closed its console ends."""


class Vmm(Subject):
    """A VMM, which is ended with the ``with`` block, and with it all that it has started.

    :param command: its words; :data:`IMAGE` in them stands for the image.
    :param folder: for what it is controlled and saved with; None: it is not.
    :param limit_s: time that each step of a migration may take: a program starts slowly on a busy host.
    :raises UsageError: no word has it.
    """

    def __init__(
        self, command: Sequence[str], image: str, folder: Path | None = None, limit_s: float = LIMIT_S
    ) -> None:
        if not any(IMAGE in word for word in command):
            raise UsageError(f"the VMM's command does not say where the image goes: write {IMAGE} there")
        self._program = command[0]
        self._command = list(command)
        self._monitor = monitor_of([word.replace(IMAGE, image) for word in command], folder, limit_s)
        self._limit_s = limit_s
        self._said = bytearray()
        self._before = b""
        """Output of a process that was saved and has ended."""
        self._carried: dict[int, int] = {}
        """Stolen time of the vCPUs' earlier threads, less what the present ones had waited before, in ns."""
        self._thief: Thief | None = None

    def __enter__(self) -> Vmm:
        """Start it.

        :raises UsageError: it cannot be started.
        """
        if shutil.which(self._program) is None:
            raise UsageError(f"{self._program}: there is no such program: check the VMM's command")
        self._start(self._monitor.command())
        self._monitor.prepare()
        return self

    def _start(self, command: Sequence[str]) -> None:
        python = (sys.executable, "-I", "-S")
        self._process = subprocess.Popen(
            [*python, die_with_parent.__file__, str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._out, self._err = self._process.stdout.fileno(), self._process.stderr.fileno()
        self._open = {self._out, self._err}
        self._threads = VcpuThreads(self._process.pid)

    @property
    def process(self) -> int:
        """The id of the process that runs the guest now."""
        return self._process.pid

    def __exit__(self, *_: object) -> None:
        """Kill it."""
        for process in processes_below(self._process.pid):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        with self._process:
            pass

    def read(self, timeout_s: float) -> bytes | None:
        """See :meth:`Subject.read`."""
        if self._before:
            output, self._before = self._before, b""
            return output
        return self._read(timeout_s)

    def _read(self, timeout_s: float) -> bytes | None:
        ready, _, _ = select.select(self._open, [], [], timeout_s)
        output = b""
        for fd in ready:
            data = os.read(fd, _CHUNK)
            if not data:
                self._open.remove(fd)
            elif fd == self._out:
                output += data
            elif len(self._said) < _COMPLAINT:
                self._said += data
        return None if self._out not in self._open and not output else output

    def run_delays(self) -> dict[int, int]:
        """See :meth:`Subject.run_delays`."""
        return {
            vcpu: delay + self._carried.get(vcpu, 0) for vcpu, delay in self._threads.run_delays().items()
        }

    def look_for_vcpus(self) -> dict[int, int]:
        """See :meth:`Subject.look_for_vcpus`."""
        self._threads.find()
        return self.run_delays()

    @contextlib.contextmanager
    def stealing(self) -> Iterator[None]:
        """Have the vCPUs' threads share one CPU with a process that computes."""
        tids = self._threads.tids()
        if not tids:
            yield
            return
        with Thief() as self._thief:
            self._thief.take(tids)
            try:
                yield
            finally:
                self._thief = None

    def pause(self, seconds: float) -> None:
        """See :meth:`Subject.pause`."""
        self._monitor.stop(self._process.pid)
        time.sleep(seconds)
        self._monitor.resume(self._process.pid)

    def migrate(self) -> Restored:
        """Save the guest and restore it in a fresh process, on threads that have waited for a CPU before."""
        readings: list[dict[int, int]] = []
        command = self._monitor.save(lambda: readings.append(self.run_delays()))
        before, last = readings[0], dict(readings[0])
        for reading in readings:
            last |= reading
        lost = {vcpu: last[vcpu] - before[vcpu] for vcpu in before}
        used = dict.fromkeys(last, 0)
        with self._thief.resting() if self._thief is not None else contextlib.nullcontext():
            self._end()
            self._start(command)
            at_rest = self._monitor.await_restored()
            self._find(len(last))
        if self._thief is not None:
            self._thief.take(self._threads.tids())
        if at_rest:
            used |= self._use_threads()
        else:  # when they began to run the guest is not known, but it was before now
            lost = {
                vcpu: lost[vcpu] + now for vcpu, now in self._threads.run_delays().items() if vcpu in lost
            }
        self._carried = {vcpu: last[vcpu] - used[vcpu] for vcpu in last}
        if at_rest:
            self._monitor.resume(self._process.pid)
        return Restored(last, lost, used)

    def _end(self) -> None:
        """Read the process's output to its end."""
        end = time.monotonic() + self._limit_s
        while (data := self._read(NAP_S)) is not None:
            if time.monotonic() > end:
                name = Path(program_of(self._command)[-1]).name
                raise ControlError(f"{name} has saved the guest and does not end")
            self._before += data
        with self._process:
            pass

    def _find(self, number: int) -> None:
        end = time.monotonic() + self._limit_s
        while self._threads.find() < number:
            if time.monotonic() > end or self._process.poll() is not None:
                raise ControlError(f"the vCPUs' threads were not found after the restore: {self.complaint()}")
            time.sleep(NAP_S)

    def _use_threads(self) -> dict[int, int]:
        """Have the threads of a guest at rest wake up, and wait for a CPU; return how long each has."""
        end = time.monotonic() + USING_S
        with patient(self._threads.tids()):
            while time.monotonic() < end:
                used = self._threads.run_delays()
                if not used or min(used.values()) >= USED_NS:
                    break
                for number in (signal.SIGSTOP, signal.SIGCONT):
                    os.kill(self._process.pid, number)
                    time.sleep(NAP_S)
        return self._threads.run_delays()

    def complaint(self) -> str:
        """See :meth:`Subject.complaint`."""
        return self._said.decode(errors="replace").strip()

    def ending(self) -> str:
        """See :meth:`Subject.ending`."""
        # Its console may have been closed a moment before.
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(0 if self._out in self._open else ENDING_S)
            if code >= 0:
                return f"the VMM ended with exit code {code}"
            return f"the VMM was ended by {signal.Signals(-code).name}"
        return "" if self._out in self._open else "the VMM closed its standard output, and runs on"

    def outside(self) -> list[CheckResult]:
        """Check this host's KVM, which the VMM may use."""
        found = check_host_kvm()
        return [] if found is None else [found]

    def version(self) -> str:
        """Return the first line that the program's --version prints."""
        try:
            done = subprocess.run(
                [*program_of(self._command), "--version"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=VERSION_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout.partition("\n")[0].strip()[:200] if done.returncode == 0 else ""
