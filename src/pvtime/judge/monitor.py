# SPDX-License-Identifier: GPL-2.0-or-later
"""Control of a VMM that runs: pause it, and move its guest to a fresh process, by the VMM's own means."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from pvtime.errors import PvtimeError
from pvtime.judge.qmp import Qmp, QmpError
from pvtime.judge.vcpu_threads import processes_below
from pvtime.run.control_client import ask
from pvtime.run.control_protocol import InfoRequest, PauseRequest, Request, ResumeRequest, SaveRequest

__all__ = ["LIMIT_S", "PVTIME", "ControlError", "Monitor", "monitor_of", "program_of"]

LIMIT_S: Final = 60.0
"""Time that a VMM has for what it is told, where nothing else is said."""
POLL_S: Final = 0.005
_QEMU: Final = re.compile("qemu-(system-|kvm)")
_NAMED_THREADS: Final = ("-name", "pvtime-judge,debug-threads=on")
"""Options with which QEMU names the threads of its vCPUs."""
PVTIME: Final = (sys.executable, "-m", "pvtime")


class ControlError(Exception):
    """The VMM has no way that is known here, or refused; the message says which."""


class Monitor(ABC):
    """Control of the VMM that a command starts.

    :param command: its words.
    :param folder: for sockets and saved guests; None: nothing but its signals is wanted.
    :param limit_s: time that the VMM has for each thing that it is told.
    """

    def __init__(self, command: Sequence[str], folder: Path | None, limit_s: float = LIMIT_S) -> None:
        self._command = list(command)
        self._folder = folder
        self._limit_s = limit_s

    def command(self) -> list[str]:
        """Return the words that start it."""
        return self._command

    def prepare(self) -> None:  # noqa: B027 (most need nothing)
        """Have the process that was started get ready to be told something; return at once."""

    @abstractmethod
    def stop(self, process: int) -> None:
        """Bring the guest to rest.

        :raises ControlError: the VMM refuses.
        """

    @abstractmethod
    def resume(self, process: int) -> None:
        """Let the guest go on.

        :raises ControlError: the VMM refuses.
        """

    def save(self, watch: Callable[[], object]) -> list[str]:
        """Bring the guest to rest, save it, end the process, and return the words that restore it in another.

        :param watch: called just before the guest is brought to rest, and while it is and the process exists.
        :raises ControlError: the VMM refuses.
        """
        raise ControlError(
            f"it is not known here how {Path(self._command[0]).name} saves and restores a guest"
        )

    def await_restored(self) -> bool:
        """Wait until the restored guest is complete; whether it is at rest, and waits for :meth:`resume`.

        :raises ControlError: the VMM refuses.
        """
        return False

    def _await(self, ready: Callable[[], bool], otherwise: str) -> None:
        end = time.monotonic() + self._limit_s
        while not ready():
            if time.monotonic() > end:
                raise ControlError(otherwise)
            time.sleep(POLL_S)


class SignalMonitor(Monitor):
    """Any VMM: its processes are stopped and continued by signals."""

    def stop(self, process: int) -> None:
        """See :meth:`Monitor.stop`."""
        _signal(process, signal.SIGSTOP)

    def resume(self, process: int) -> None:
        """See :meth:`Monitor.resume`."""
        _signal(process, signal.SIGCONT)


class QemuMonitor(Monitor):
    """QEMU, by QMP. Its guest is migrated to a file, at rest, and restored from there."""

    def __init__(self, command: Sequence[str], folder: Path | None, limit_s: float = LIMIT_S) -> None:
        super().__init__(command, folder, limit_s)
        if not any("debug-threads" in word for word in command):
            self._command += _NAMED_THREADS
        self._number = 0

    def command(self) -> list[str]:
        """See :meth:`Monitor.command`."""
        if self._folder is None:
            return self._command
        return [*self._command, "-qmp", f"unix:{self._socket},server=on,wait=off"]

    def stop(self, process: int) -> None:
        """See :meth:`Monitor.stop`."""
        self._execute("stop")

    def resume(self, process: int) -> None:
        """See :meth:`Monitor.resume`."""
        self._execute("cont")

    def save(self, watch: Callable[[], object]) -> list[str]:
        """See :meth:`Monitor.save`."""
        assert self._folder is not None
        file = self._folder / "guest"
        with _told(), Qmp(self._socket, self._limit_s) as qmp:
            watch()
            qmp.execute("stop")
            watch()
            qmp.execute("migrate", uri=f"exec:cat > {shlex.quote(str(file))}")
            self._await(lambda: _has_migrated(qmp), "QEMU does not end its migration to a file")
            watch()
            with contextlib.suppress(QmpError):
                qmp.execute("quit")
        self._number += 1
        return [*self.command(), "-S", "-incoming", f"exec:cat {shlex.quote(str(file))}"]

    def await_restored(self) -> bool:
        """See :meth:`Monitor.await_restored`."""
        with _told(), Qmp(self._socket, self._limit_s) as qmp:
            self._await(
                lambda: qmp.execute("query-status")["status"] in ("paused", "prelaunch"),
                "QEMU does not restore the guest from its file",
            )
        return True

    @property
    def _socket(self) -> Path:
        assert self._folder is not None
        return self._folder / f"qmp-{self._number}"

    def _execute(self, command: str) -> None:
        with _told(), Qmp(self._socket, self._limit_s) as qmp:
            qmp.execute(command)


class PvtimeMonitor(Monitor):
    """A machine of pvtime's, by its control socket."""

    def command(self) -> list[str]:
        """See :meth:`Monitor.command`."""
        return self._command if self._folder is None else [*self._command, "--control", str(self._socket)]

    def prepare(self) -> None:
        """Ask for something: on an emulated host, the first answer took longer than the guest had to live."""

        def ask() -> None:
            with contextlib.suppress(ControlError):
                self._ask(InfoRequest())

        if self._folder is not None:
            threading.Thread(target=ask, daemon=True).start()

    def stop(self, process: int) -> None:
        """See :meth:`Monitor.stop`."""
        self._ask(PauseRequest())

    def resume(self, process: int) -> None:
        """See :meth:`Monitor.resume`."""
        self._ask(ResumeRequest())

    def save(self, watch: Callable[[], object]) -> list[str]:
        """See :meth:`Monitor.save`."""
        assert self._folder is not None
        directory = self._folder / "guest"
        watch()
        # At rest first: to get ready for a save takes a machine some seconds on an emulated host.
        self._ask(PauseRequest())
        watch()
        with ThreadPoolExecutor(1) as pool:
            saving = pool.submit(self._ask, SaveRequest(str(directory), keep_running=False))
            while not saving.done():
                watch()
                time.sleep(POLL_S)
        saving.result()
        return [*PVTIME, "restore", str(directory)]

    def _ask(self, request: Request) -> None:
        self._await(self._socket.exists, "pvtime does not listen at its control socket")
        try:
            ask(self._socket, request, None, timeout_s=self._limit_s)
        except PvtimeError as error:
            raise ControlError(str(error)) from error

    @property
    def _socket(self) -> Path:
        assert self._folder is not None
        return self._folder / "control"


def monitor_of(command: Sequence[str], folder: Path | None, limit_s: float = LIMIT_S) -> Monitor:
    """Return the control of what a command starts, which may be behind another program: env, taskset."""
    *_, program = program_of(command)
    if _QEMU.match(Path(program).name):
        return QemuMonitor(command, folder, limit_s)
    if Path(program).name == "pvtime":
        return PvtimeMonitor(command, folder, limit_s)
    return SignalMonitor(command, folder, limit_s)


def program_of(command: Sequence[str]) -> list[str]:
    """Return the words of a command up to the VMM's name: the first, if no word is known as a VMM's."""
    if tuple(command[:3]) == PVTIME:
        return list(command[:3])
    for number, word in enumerate(command, 1):
        if _QEMU.match(Path(word).name) or Path(word).name == "pvtime":
            return list(command[:number])
        if word.startswith("-"):
            break
    return list(command[:1])


def _signal(process: int, number: signal.Signals) -> None:
    for each in processes_below(process):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(each, number)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except QmpError as error:
        raise ControlError(str(error)) from error


def _has_migrated(qmp: Qmp) -> bool:
    answer = qmp.execute("query-migrate")
    if answer.get("status") == "failed":
        raise ControlError(
            f"QEMU's migration to a file failed: {answer.get('error-desc', 'it gives no reason')}"
        )
    return bool(answer.get("status") == "completed")
