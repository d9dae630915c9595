# SPDX-License-Identifier: GPL-2.0-or-later
"""The subjects of a judgement: a VMM that a command starts, or a machine of the embedded engine, here."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import select
import shutil
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from pvtime.engine.base import Engine
from pvtime.errors import UsageError
from pvtime.judge.thief import stealing
from pvtime.judge.vcpu_threads import VcpuThreads, processes_below
from pvtime.lab import die_with_parent

__all__ = ["IMAGE", "OwnMachine", "Subject", "Vmm"]

IMAGE: Final = "{image}"
"""Stands for the image's path in a VMM's command."""

_QEMU: Final = re.compile("qemu-(system-|kvm)")
_NAMED_THREADS: Final = ("-name", "pvtime-judge,debug-threads=on")
"""Options with which QEMU names the threads of its vCPUs."""

_CHUNK: Final = 4096
_COMPLAINT: Final = 4000
"""Bytes that are kept of what a VMM says on standard error."""


class Subject(ABC):
    """A machine that boots the image, and the host's view of it."""

    @abstractmethod
    def read(self, timeout_s: float) -> bytes | None:
        """Return new output of the console, nothing after ``timeout_s``; None at its end."""

    @abstractmethod
    def run_delays(self) -> dict[int, int]:
        """Return the time, in ns, that the host knows to be stolen from each vCPU so far."""

    def look_for_vcpus(self) -> dict[int, int]:
        """Look for vCPUs that are not known yet; return :meth:`run_delays`."""
        return self.run_delays()

    @abstractmethod
    @contextlib.contextmanager
    def stealing(self) -> Iterator[None]:
        """Steal from the vCPUs for the time of a ``with`` block."""

    @abstractmethod
    def complaint(self) -> str:
        """Return what the machine said beside its console."""


class Vmm(Subject):
    """A VMM, which is ended with the ``with`` block, and with it all that it has started.

    :param command: its words; :data:`IMAGE` in them stands for the image.
    :raises UsageError: no word has it.
    """

    def __init__(self, command: Sequence[str], image: str) -> None:
        if not any(IMAGE in word for word in command):
            raise UsageError(f"the VMM's command does not say where the image goes: write {IMAGE} there")
        self._command = [word.replace(IMAGE, image) for word in command]
        if _QEMU.match(Path(command[0]).name) and not any("debug-threads" in word for word in command):
            self._command += _NAMED_THREADS
        self._said = bytearray()

    def __enter__(self) -> Vmm:
        """Start it.

        :raises UsageError: it cannot be started.
        """
        if shutil.which(self._command[0]) is None:
            raise UsageError(f"{self._command[0]}: there is no such program: check the VMM's command")
        python = (sys.executable, "-I", "-S")
        self._process = subprocess.Popen(
            [*python, die_with_parent.__file__, str(os.getpid()), *self._command],
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
        return self

    def __exit__(self, *_: object) -> None:
        """Kill it."""
        for process in processes_below(self._process.pid):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        with self._process:
            pass

    def read(self, timeout_s: float) -> bytes | None:
        """See :meth:`Subject.read`."""
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
        return self._threads.run_delays()

    def look_for_vcpus(self) -> dict[int, int]:
        """See :meth:`Subject.look_for_vcpus`."""
        self._threads.find()
        return self._threads.run_delays()

    @contextlib.contextmanager
    def stealing(self) -> Iterator[None]:
        """Have the vCPUs' threads share one CPU with a process that computes."""
        with stealing(self._threads.tids()):
            yield

    def complaint(self) -> str:
        """See :meth:`Subject.complaint`."""
        return self._said.decode(errors="replace").strip()


class OwnMachine(Subject):
    """A machine on the embedded engine, which knows what it steals; the schedule that it was given steals.

    :param console: gets the console's output, from the engine's thread.
    """

    def __init__(self, engine: Engine, console: queue.SimpleQueue[bytes]) -> None:
        self._engine = engine
        self._console = console
        self._starts: dict[int, int] = {}

    def read(self, timeout_s: float) -> bytes | None:
        """See :meth:`Subject.read`."""
        ended = self._engine.wait(0) is not None
        output = b""
        with contextlib.suppress(queue.Empty):
            output = self._console.get(timeout=0 if ended else timeout_s)
            while True:
                output += self._console.get_nowait()
        return None if ended and not output else output

    def run_delays(self) -> dict[int, int]:
        """Return what was stolen since each vCPU's last PV_TIME_ST.

        A vCPU that has made one since the last reading is left out.
        """
        samples = self._engine.sample()
        before, self._starts = self._starts, {sample.index: sample.starts for sample in samples}
        return {
            sample.index: sample.truth_ns for sample in samples if before.get(sample.index) == sample.starts
        }

    @contextlib.contextmanager
    def stealing(self) -> Iterator[None]:
        """Do nothing more than the machine's schedule."""
        yield

    def complaint(self) -> str:
        """Return nothing: an engine's failure is an exception."""
        return ""
