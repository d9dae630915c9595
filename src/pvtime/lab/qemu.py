# SPDX-License-Identifier: GPL-2.0-or-later
"""The emulator under the lab: its command line, its process, its two serial lines."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import selectors
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pvtime.errors import PvtimeError, UsageError, host_reason
from pvtime.lab import die_with_parent
from pvtime.lab.protocol import AgentFrame, FrameError, FrameReader
from pvtime.userland import build

__all__ = ["CPUS", "Emulator", "LabError", "LabOptions", "qemu_version", "require_qemu"]

PROGRAM: Final = "qemu-system-aarch64"
CPUS: Final = ("neoverse-n1", "cortex-a72")
"""KVM runs with VHE on the first and without on the second. ``max`` would be 3 to 5 times slower: it has
pointer authentication, which is slow to emulate."""

KERNEL_PARAMETERS: Final = f"console=ttyAMA0 quiet loglevel=4 panic=-1 rdinit=/init {build.KERNEL_PARAMETERS}"
FIXED_ADDRESSES: Final = " nokaslr norandmaps"
"""QEMU hands out a seed for KASLR, with which Linux isolates its page tables: each system call then empties
the emulator's TLB. A program that is where the last process had it runs from the code that the emulator
translated then: a start of pvtime takes a tenth less. Where instructions are counted addresses are random, as
on other hosts: a module is so far from the kernel that it calls it through veneers."""

CONSOLE_TAIL: Final = 64 * 1024
"""Bytes kept of the kernel's console, for a message about a failure."""


class LabError(PvtimeError):
    """The emulated host did not start, or stopped."""


@dataclass(frozen=True)
class LabOptions:
    """Configuration of the emulated host."""

    cpu: str = CPUS[0]
    smp: int = 2
    memory: int = 2048
    """MiB."""
    icount: bool = False
    """Derive the host's time from the number of executed instructions, independent of this machine's load."""
    debug: bool = False
    """Have QEMU's gdbstub observe the host (:attr:`Lab.stub`)."""

    def __post_init__(self) -> None:
        if self.cpu not in CPUS:
            raise UsageError(f"the lab has no CPU model {self.cpu}: give one of {', '.join(CPUS)}")
        if not 1 <= self.smp <= 16:
            raise UsageError(f"the lab cannot have {self.smp} CPUs: give 1 to 16")
        if self.memory < 512:
            raise UsageError(f"{self.memory} MiB are too little for the lab: give at least 512")

    def command(self, kernel: Path, initrd: str, link: int, gdb: int | None = None) -> list[str]:
        """Return QEMU's command line.

        :param link: descriptor of the agent's serial line.
        :param gdb: descriptor that the gdbstub serves; None: there is no gdbstub.
        """
        accel = ["-accel", "tcg,thread=multi,tb-size=1024"]
        if self.icount:
            accel = ["-accel", "tcg,thread=single,tb-size=1024", "-icount", "shift=1,sleep=off"]
        counted = self.icount or self.debug
        parameters = KERNEL_PARAMETERS if counted else KERNEL_PARAMETERS + FIXED_ADDRESSES
        return [
            PROGRAM,
            *("-M", "virt,virtualization=on,gic-version=3"),
            *("-cpu", self.cpu, "-smp", str(self.smp), "-m", str(self.memory)),
            *accel,
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-kernel", str(kernel), "-initrd", initrd),
            *("-append", parameters),
            *("-serial", "stdio"),
            # The second line is a PCI 16550, whose driver is in Debian's kernel image itself.
            *("-chardev", f"socket,id=link,fd={link}", "-device", "pci-serial,chardev=link"),
            *([] if gdb is None else ["-chardev", f"socket,id=gdb,fd={gdb}", "-gdb", "chardev:gdb"]),
        ]


def require_qemu() -> None:
    """Check that QEMU is installed.

    :raises UsageError: it is not.
    """
    if shutil.which(PROGRAM) is None:
        raise UsageError(
            f"{PROGRAM} is not installed: the lab needs it (Debian: apt install qemu-system-arm)"
        )


def qemu_version() -> str:
    """Return QEMU's version, such as ``7.2.22``.

    :raises UsageError: it is not installed.
    """
    require_qemu()
    text = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"version (\S+)", text)
    return match[1] if match else "of unknown version"


class Emulator:
    """A QEMU process. :attr:`frames` has the agent's frames; None is the end.

    The thread that starts QEMU also reads from it to its end: the death signal is tied to that thread
    (prctl(2), PR_SET_PDEATHSIG), so it must live as long as QEMU does.
    """

    def __init__(self, settings: LabOptions, kernel: Path, initrd: int) -> None:
        """Start QEMU; ``initrd`` is a descriptor that QEMU reads.

        :raises LabError: it cannot be started.
        """
        require_qemu()
        self.frames: queue.SimpleQueue[tuple[AgentFrame, bytes] | None] = queue.SimpleQueue()
        self._console = bytearray()
        self._link, theirs = socket.socketpair()
        self.gdb: socket.socket | None = None
        """Connection to the gdbstub; None: there is none."""
        self._started: queue.SimpleQueue[subprocess.Popen[bytes] | OSError] = queue.SimpleQueue()
        ends = [theirs]
        if settings.debug:
            self.gdb, stub = socket.socketpair()
            ends.append(stub)
        command = settings.command(kernel, f"/dev/fd/{initrd}", *(end.fileno() for end in ends))
        self._thread = threading.Thread(
            target=self._attend, args=(command, ends, initrd), name="lab-emulator", daemon=True
        )
        self._thread.start()
        started = self._started.get()
        if isinstance(started, OSError):
            raise LabError(f"cannot start {PROGRAM}: {host_reason(started)}")
        self._process = started

    def send(self, frame: bytes) -> None:
        """Send a frame to the agent.

        :raises LabError: the lab has ended.
        """
        try:
            self._link.sendall(frame)
        except OSError:
            raise self.ended() from None

    def ended(self) -> LabError:
        """Return the error for a lab that has stopped by itself, with the last lines of its console."""
        text = self._console.decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        last = " / ".join(lines[-3:]) or "nothing on its console"
        return LabError(f"the lab stopped by itself: {last}")

    def close(self) -> None:
        """End QEMU and wait for its exit. Harmless if it has exited already."""
        self._process.kill()
        self._thread.join()
        self._link.close()
        if self.gdb is not None:
            self.gdb.close()

    def _attend(self, command: list[str], ends: list[socket.socket], initrd: int) -> None:
        command_line = [sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid()), *command]
        try:
            process = subprocess.Popen(
                command_line,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(*(end.fileno() for end in ends), initrd),
                start_new_session=True,  # Ctrl-C at a terminal is not for QEMU.
            )
        except OSError as error:
            self._started.put(error)
            return
        finally:
            for end in ends:
                end.close()
        self._started.put(process)
        with process, contextlib.suppress(FrameError, ConnectionResetError):
            for frame in self._read(process):
                self.frames.put(frame)
            process.kill()
        self.frames.put(None)

    def _read(self, process: subprocess.Popen[bytes]) -> Iterator[tuple[AgentFrame, bytes]]:
        """Yield the agent's frames to the end of the line; keep the console's tail."""
        assert process.stdout is not None  # PIPE was asked for
        reader = FrameReader()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            selector.register(self._link, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    data = os.read(key.fd, 65536)
                    if key.fileobj is self._link:
                        if not data:
                            return
                        yield from reader.feed(data)
                    elif data:
                        self._console += data
                        del self._console[:-CONSOLE_TAIL]
                    else:
                        selector.unregister(process.stdout)
