# SPDX-License-Identifier: GPL-2.0-or-later
r"""Run commands in an emulated arm64 KVM host that has this very pvtime in it.

>>> with Lab(LabOptions(cpu="cortex-a72")) as lab:
...     lab.run(["uname", "-m"]).stdout
b'aarch64\n'
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from pvtime.errors import UsageError
from pvtime.images.cache import FetchProgress, silent
from pvtime.kmod.build import require_programs
from pvtime.lab.gdbstub import GdbStub
from pvtime.lab.initramfs import LabExtras, prepare
from pvtime.lab.module import load_module
from pvtime.lab.protocol import CHUNK, AgentFrame, CommandRequest, pack
from pvtime.lab.qemu import Emulator, LabError, LabOptions, require_qemu
from pvtime.lab.result import LAB_FILE, CompletedRun, ResultReader
from pvtime.report.output_file import refuse_unwritable
from pvtime.report.waiting import waiting

__all__ = ["Lab", "refuse_impossible", "run_in_lab"]

BOOT_TIMEOUT_S: Final = 300.0
"""A boot takes 3 s on a quiet machine; this is for a loaded one."""

END_TIMEOUT_S: Final = 15.0
"""Time for a command to exit after a signal, before the lab is given up."""


class Lab:
    """A booted emulated host, ended with the ``with`` block; QEMU dies with this process in any case.

    :param extras: its contents in addition to pvtime.
    :param progress: called for downloads where the lab's packages are not in the cache.
    """

    def __init__(
        self,
        options: LabOptions | None = None,
        *,
        extras: LabExtras | None = None,
        progress: FetchProgress = silent,
    ) -> None:
        self.options = options or LabOptions()
        self._extras = extras
        self._progress = progress
        self._emulator: Emulator | None = None
        self._stub: GdbStub | None = None

    def __enter__(self) -> Self:
        """Boot, and wait for the agent.

        :raises UsageError: QEMU is not installed, or the lab's packages cannot be fetched.
        :raises LabError: the emulated host does not boot.
        """
        kernel, initrd = prepare(self._progress, self._extras)
        try:
            self._emulator = Emulator(self.options, kernel, initrd)
        finally:
            os.close(initrd)
        try:
            self._wait_ready(self._emulator)
        except BaseException:
            self._emulator.close()
            raise
        if self._emulator.gdb is not None:
            self._stub = GdbStub(self._emulator.gdb)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the emulated host at once."""
        if self._emulator is not None:
            self._emulator.close()

    def run(
        self,
        argv: Sequence[str],
        *,
        stdout: BinaryIO | None = None,
        stderr: BinaryIO | None = None,
        timeout: float | None = None,
        out_files: Mapping[str, Path] | None = None,
        env: Mapping[str, str] | None = None,
        terminal: tuple[int, int] | None = None,
    ) -> CompletedRun:
        """Run a command in the lab's ``/root`` and wait for its end.

        :param stdout: receives the output as it comes; None: into the result. The same for ``stderr``.
        :param timeout: seconds.
        :param out_files: files in the lab, and their paths on this side.
        :param env: added to the lab's environment.
        :param terminal: columns and lines of a terminal to run it on; its whole output counts as standard
            output.

        Ctrl-C reaches the command.

        :raises LabError: the command took longer than ``timeout``, or the lab stopped.
        :raises UsageError: the command is too long.
        """
        emulator = self._running()
        wanted = dict(out_files or {})
        request = CommandRequest(list(argv), dict(env or {}), list(wanted), terminal).encode()
        if len(request) > CHUNK:
            raise UsageError(f"a command of {len(request)} bytes is too long for the lab: at most {CHUNK}")
        emulator.send(pack(AgentFrame.RUN, request))
        with ResultReader(wanted, stdout, stderr) as receiver:
            for kind, payload in self._frames(emulator, argv[0], timeout):
                receiver.take(kind, payload)
        return receiver.result

    def interrupt(self) -> None:
        """Send Ctrl-C to the command that another thread has running.

        :raises LabError: the lab stopped.
        """
        self._running().send(_signal(signal.SIGINT))

    @property
    def stub(self) -> GdbStub:
        """QEMU's gdbstub, of a lab that is started with :attr:`LabOptions.debug`."""
        if self._stub is None:
            raise RuntimeError("start the lab with LabOptions(debug=True)")
        return self._stub

    def _running(self) -> Emulator:
        if self._emulator is None:
            raise RuntimeError("enter the lab with a with statement first")
        return self._emulator

    @staticmethod
    def _wait_ready(emulator: Emulator) -> None:
        try:
            frame = emulator.frames.get(timeout=BOOT_TIMEOUT_S)
        except queue.Empty:
            raise LabError(
                f"the lab did not boot within {BOOT_TIMEOUT_S:g} s: try again on a less busy machine"
            ) from None
        if frame is None:
            raise emulator.ended()

    @staticmethod
    def _frames(emulator: Emulator, name: str, timeout: float | None) -> Iterator[tuple[AgentFrame, bytes]]:
        """Yield a command's frames up to its EXIT; pass Ctrl-C on to it, kill it at the timeout."""
        deadline = None if timeout is None else time.monotonic() + timeout
        interrupted = overdue = False
        while True:
            try:
                frame = emulator.frames.get(
                    timeout=None if deadline is None else max(0, deadline - time.monotonic())
                )
            except KeyboardInterrupt as error:
                if interrupted or type(error) is not KeyboardInterrupt:  # SIGTERM's is a subclass
                    raise
                interrupted = True
                emulator.send(_signal(signal.SIGINT))
                deadline = time.monotonic() + END_TIMEOUT_S
                continue
            except queue.Empty:
                if overdue:
                    raise LabError(f"the lab does not answer: {name} cannot be ended; try again") from None
                overdue = True
                emulator.send(_signal(signal.SIGKILL))
                deadline = time.monotonic() + END_TIMEOUT_S
                continue
            if frame is None:
                raise emulator.ended()
            yield frame
            if frame[0] is AgentFrame.EXIT:
                break
        if overdue and not interrupted:
            raise LabError(f"{name} took longer than {timeout:g} s in the lab")


def _signal(number: signal.Signals) -> bytes:
    return pack(AgentFrame.SIGNAL, json.dumps(int(number)).encode())


def refuse_impossible(out: Sequence[str], *, module: bool = False) -> None:
    """Check, before anything is fetched, that a lab can run and that files can be copied back.

    :param out: their names, as for :func:`run_in_lab`.
    :param module: pvtime's kernel module will be compiled.
    :raises UsageError: QEMU or a program that compiles is not installed, or a name cannot be a file's on this
        side.
    """
    for name in out:
        refuse_unwritable(Path(name), LAB_FILE)
    require_qemu()
    if module:
        require_programs()


def run_in_lab(
    argv: Sequence[str],
    *,
    options: LabOptions | None = None,
    extras: LabExtras | None = None,
    out: Mapping[str, Path] | None = None,
    progress: FetchProgress = silent,
) -> int:
    """Boot a lab, run a command in it with its output on ours, and return its exit code.

    :param out: files to copy back: names, relative to ``/root`` in the lab, and paths on this side.

    :raises UsageError: QEMU is not installed, or the lab's packages cannot be fetched.
    :raises LabError: the lab does not boot or stopped, or a wanted file is missing after a success.
    """
    size = shutil.get_terminal_size()
    env = {"TERM": os.environ.get("TERM", "dumb")}
    with contextlib.ExitStack() as stack:
        lab = Lab(options, extras=extras, progress=progress)
        with waiting(sys.stderr, f"booting an emulated arm64 host ({lab.options.cpu})"):
            stack.enter_context(lab)
            if extras is not None and extras.module:
                load_module(lab)
        run = lab.run(
            argv,
            stdout=sys.stdout.buffer,
            stderr=sys.stderr.buffer,
            out_files=out,
            env=env,
            terminal=(size.columns, size.lines) if sys.stdout.isatty() else None,
        )
    run.refuse_missing()
    return run.exit_code
