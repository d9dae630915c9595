# SPDX-License-Identifier: GPL-2.0-or-later
"""Examination of a machine as a guest: whether its kernel found stolen time, and whether it grows."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pvtime.doctor.finding import HealthFinding, bad, good, neutral

__all__ = ["ARM64", "GuestFacts", "examine_guest"]

ARM64: Final = "aarch64"

FOUND: Final = "using stolen time PV"
"""An arm64 kernel's message (arch/arm64/kernel/paravirt.c); other kernels print none."""

WATCH_S: Final = 1.0
"""Time for which a CPU is kept busy while the steal column is watched: an idle CPU is not stolen from."""

_STEAL: Final = 8
"""Column of steal in /proc/stat; column 0 is the CPU's name (Documentation/filesystems/proc.rst)."""


@dataclass(frozen=True)
class GuestFacts:
    """Sources of facts about this machine; tests give others."""

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


def examine_guest(machine: GuestFacts | None = None) -> list[HealthFinding]:
    """Examine this machine as a guest; return a single neutral finding if it is not one."""
    machine = machine or GuestFacts()
    hypervisor = _hypervisor(machine)
    if hypervisor is None:
        return [neutral("guest", "This machine does not look like a virtual machine.")]
    return [
        neutral("guest", f"This machine is a guest ({hypervisor})."),
        _kernel(machine),
        _steal(machine),
    ]


def _hypervisor(machine: GuestFacts) -> str | None:
    """Return the evidence that this machine is virtual; None without any."""
    if machine.text("proc/device-tree/psci/method").strip("\0") == "hvc":
        return "its firmware interface is a hypervisor call"
    if re.search(r"^flags\s*:.*\bhypervisor\b", machine.text("proc/cpuinfo"), re.MULTILINE):
        return "its CPU says so"
    if kind := machine.text("sys/hypervisor/type").strip():
        return kind
    vendor = machine.text("sys/class/dmi/id/sys_vendor").strip()
    return vendor if vendor in ("QEMU", "Amazon EC2", "Google", "Microsoft Corporation") else None


def _kernel(machine: GuestFacts) -> HealthFinding:
    if machine.architecture != ARM64:
        kernel = f"A {machine.architecture} kernel"
        return neutral("guest kernel", f"{kernel} does not log whether it found stolen time: see /proc/stat.")
    log = machine.read_log()
    if FOUND in log:
        return good("guest kernel", "The kernel found stolen time at boot.")
    if not log:
        return neutral("guest kernel", "The kernel log cannot be read: run this command as root.")
    return bad(
        "guest kernel",
        "The kernel log does not say that it found stolen time: the hypervisor may not offer it. "
        "Time that the host takes then looks like a hang.",
    )


def _steal(machine: GuestFacts) -> HealthFinding:
    before = _read_steal(machine)
    machine.watch()
    after = _read_steal(machine)
    if before is None or after is None:
        return bad("/proc/stat", "/proc/stat has no steal column.")
    # pvtime is about arm64: steal that an x86 host reports proves nothing about it.
    report = good if machine.architecture == ARM64 else neutral
    tick_ms = 1000 // os.sysconf("SC_CLK_TCK")
    total = after * tick_ms / 1000
    if after > before:
        moved = (after - before) * tick_ms
        return report("/proc/stat", f"Steal grows: {moved} ms in the last second, {total:.2f} s since boot.")
    if after > 0:
        return report("/proc/stat", f"Steal is {total:.2f} s since boot, none of it in the last second.")
    nothing = "the host does not offer it, or has stolen nothing yet"
    return neutral("/proc/stat", f"Steal is 0 since boot: {nothing}.")


def _read_steal(machine: GuestFacts) -> int | None:
    fields = machine.text("proc/stat").partition("\n")[0].split()
    return int(fields[_STEAL]) if len(fields) > _STEAL and fields[_STEAL].isdigit() else None


def _keep_busy() -> None:
    end = time.monotonic() + WATCH_S
    while time.monotonic() < end:
        pass


def _read_kernel_log() -> str:
    """Return the kernel's messages since boot; empty if this user may not read them."""
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
                continue  # overwritten meanwhile: read the next record
    except OSError:
        pass
    finally:
        os.close(fd)
    return b"".join(lines).decode(errors="replace")
