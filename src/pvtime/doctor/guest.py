# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine as a guest: whether its kernel has found stolen time, and whether the count moves."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pvtime.doctor.finding import Finding, Health

__all__ = ["Machine", "examine_guest"]

ARM64: Final = "aarch64"

FOUND: Final = "using stolen time PV"
"""What an arm64 kernel prints (arch/arm64/kernel/paravirt.c); others say nothing."""

WATCH_S: Final = 1.0
"""How long a CPU is kept busy while the steal column is watched: only who wants to run is stolen from."""

_STEAL: Final = 8
"""/proc/stat's column of steal, the CPU's name being column 0 (Documentation/filesystems/proc.rst)."""


@dataclass(frozen=True)
class Machine:
    """Where the facts are; tests give others."""

    root: Path = Path("/")
    architecture: str = field(default_factory=platform.machine)
    read_log: Callable[[], str] = field(default_factory=lambda: _read_kernel_log)
    watch: Callable[[], None] = field(default_factory=lambda: _keep_busy)

    def text(self, path: str) -> str:
        """Return a file's text; empty where it cannot be read."""
        try:
            return (self.root / path).read_text(errors="replace")
        except OSError:
            return ""


def examine_guest(machine: Machine | None = None) -> list[Finding]:
    """Return what this machine is as a guest; one neutral finding where it is none."""
    machine = machine or Machine()
    hypervisor = _hypervisor(machine)
    if hypervisor is None:
        return [Finding("guest", Health.NEUTRAL, "This machine does not look like a virtual one.")]
    return [
        Finding("guest", Health.NEUTRAL, f"This machine is a guest ({hypervisor})."),
        _kernel(machine),
        _steal(machine),
    ]


def _hypervisor(machine: Machine) -> str | None:
    """Return how this machine shows that it is virtual; None: it does not."""
    if machine.text("proc/device-tree/psci/method").strip("\0") == "hvc":
        return "its firmware interface is a hypervisor call"
    if re.search(r"^flags\s*:.*\bhypervisor\b", machine.text("proc/cpuinfo"), re.MULTILINE):
        return "its CPU says so"
    if kind := machine.text("sys/hypervisor/type").strip():
        return kind
    vendor = machine.text("sys/class/dmi/id/sys_vendor").strip()
    return vendor if vendor in ("QEMU", "Amazon EC2", "Google", "Microsoft Corporation") else None


def _kernel(machine: Machine) -> Finding:
    if machine.architecture != ARM64:
        sentence = (
            f"A {machine.architecture} kernel does not say whether it found stolen time; /proc/stat tells."
        )
        return Finding("guest kernel", Health.NEUTRAL, sentence)
    log = machine.read_log()
    if FOUND in log:
        return Finding("guest kernel", Health.GOOD, "The kernel found stolen time at boot.")
    if not log:
        return Finding("guest kernel", Health.NEUTRAL, "The kernel's log cannot be read: run this as root.")
    return Finding(
        "guest kernel",
        Health.BAD,
        "The kernel's log does not say that it found stolen time: the hypervisor may not offer it, "
        "and time that the host takes looks like a hang here.",
    )


def _steal(machine: Machine) -> Finding:
    before = _read_steal(machine)
    machine.watch()
    after = _read_steal(machine)
    if before is None or after is None:
        return Finding("/proc/stat", Health.BAD, "/proc/stat has no steal column.")
    # What an x86 host steals and tells is nothing that pvtime is about.
    good = Health.GOOD if machine.architecture == ARM64 else Health.NEUTRAL
    tick_ms = 1000 // os.sysconf("SC_CLK_TCK")
    total = after * tick_ms / 1000
    if after > before:
        moved = (after - before) * tick_ms
        return Finding("/proc/stat", good, f"Steal moves: {moved} ms just now, {total:.2f} s since boot.")
    if after > 0:
        return Finding("/proc/stat", good, f"Steal is {total:.2f} s since boot; none just now.")
    return Finding(
        "/proc/stat", Health.NEUTRAL, "Steal is 0 since boot: not offered, or nothing was stolen yet."
    )


def _read_steal(machine: Machine) -> int | None:
    fields = machine.text("proc/stat").partition("\n")[0].split()
    return int(fields[_STEAL]) if len(fields) > _STEAL and fields[_STEAL].isdigit() else None


def _keep_busy() -> None:
    end = time.monotonic() + WATCH_S
    while time.monotonic() < end:
        pass


def _read_kernel_log() -> str:
    """Return the kernel's messages since boot; empty where they are not for this user."""
    try:
        fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    lines = []
    try:
        while True:
            try:
                lines.append(os.read(fd, 8192))
            except BlockingIOError:
                break
            except BrokenPipeError:
                continue  # overwritten while it was read: the next one is there
    except OSError:
        pass
    finally:
        os.close(fd)
    return b"".join(lines).decode(errors="replace")
