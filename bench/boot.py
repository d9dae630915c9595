# SPDX-License-Identifier: GPL-2.0-or-later
"""Time of a boot, from the start of the process to its end, beside QEMU's (TCG).

Both boot the stock kernel with the stock initramfs, which powers off at the start of userland, with the same
CPU model and memory, in turn: a host that gets slower slows both. The figure is the median of the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from table import Row, print_rows

from pvtime.errors import PvtimeError
from pvtime.images.cache import cache_directory
from pvtime.images.store import stock_images
from pvtime.userland.build import build_initramfs

QEMU = "qemu-system-aarch64"
PVTIME = [sys.executable, "-m", "pvtime", "run"]
MEMORY = 512
"""MiB."""
LIMIT = 120
"""Seconds after which a boot has failed."""


@dataclass(frozen=True)
class Case:
    """A comparison, and the ratio to reach."""

    vcpus: int
    internals: str
    goal: float | None

    def __str__(self) -> str:
        without = "" if self.internals == "auto" else f", internals={self.internals}"
        return f"{self.vcpus} vCPU{'s' if self.vcpus > 1 else ''}{without}"


CASES = (Case(1, "auto", 1.15), Case(2, "auto", None), Case(4, "auto", 1.3), Case(1, "off", 2.5))
WARM_GOAL = 0.25


@dataclass(frozen=True)
class Guest:
    """The files that both boot."""

    kernel: Path
    initrd: Path

    @property
    def name(self) -> str:
        """The kernel's version."""
        return self.kernel.name.removeprefix("vmlinuz-").partition("-")[0]

    def qemu(self, vcpus: int) -> list[str]:
        """Return QEMU's command; like pvtime it has one serial port to write to and nothing else."""
        machine = ["-M", "virt,gic-version=2", "-cpu", "cortex-a72", "-accel", "tcg", "-smp", str(vcpus)]
        nothing_else = [
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-serial",
            "stdio",
            "-no-reboot",
        ]
        files = ["-kernel", str(self.kernel), "-initrd", str(self.initrd), "-append", "pvtime.poweroff"]
        return [QEMU, *machine, "-m", str(MEMORY), *nothing_else, *files]

    def pvtime(self, case: Case) -> list[str]:
        """Return pvtime's command."""
        machine = ["--vcpus", str(case.vcpus), "--memory", f"{MEMORY}M", "--cpu", "cortex-a72"]
        engine = ["--engine", "unicorn", "--engine-option", f"internals={case.internals}"]
        files = ["--kernel", str(self.kernel), "--initrd", str(self.initrd), "--append", "pvtime.poweroff"]
        return [*PVTIME, *machine, *engine, *files, "--quiet", "--report", "-"]


@dataclass(frozen=True)
class Timing:
    """One process: its wall time, the CPU time of its threads, both in s, and what it printed."""

    wall: float
    cpu: float
    output: str


def timed(command: Sequence[str]) -> Timing:
    """Run ``command`` to its end.

    :raises SystemExit: it failed, or its guest did not power off.
    """
    before, start = os.times(), time.monotonic()
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=LIMIT
        )
    except subprocess.TimeoutExpired as error:
        raise SystemExit(f"no power-off within {LIMIT} s: {' '.join(command)}") from error
    wall, after = time.monotonic() - start, os.times()
    if done.returncode != 0:
        raise SystemExit(f"{command[0]} failed: {done.stderr.strip()}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Timing(wall, cpu, done.stdout)


def compare(guest: Guest, case: Case, rounds: int) -> None:
    """Run both in turn and print the ratio of the medians, and where pvtime's time went."""
    pairs = [(timed(guest.pvtime(case)), timed(guest.qemu(case.vcpus))) for _ in range(rounds)]
    ours = statistics.median(own.wall for own, _ in pairs)
    theirs = statistics.median(other.wall for _, other in pairs)
    note = f"{ours:.2f} s and {theirs:.2f} s"
    ratios = [own.wall / other.wall for own, other in pairs]
    print_rows(
        [Row(1, f"boot to power-off beside QEMU's TCG, {case}, {guest.name}", ratios, case.goal, note)]
    )
    guest_time = statistics.median(json.loads(own.output)["elapsed_seconds"] for own, _ in pairs)
    running = statistics.median(
        sum(vcpu["ran_ns"] for vcpu in json.loads(own.output)["vcpus"]) / 1e9 for own, _ in pairs
    )
    cpu = statistics.median(own.cpu for own, _ in pairs)
    print(
        f"    start and end of the process {ours - guest_time:.2f} s, vCPUs on the engine {running:.2f} s, "
        f"engine beside that {guest_time - running:.2f} s; CPU time {cpu:.2f} s",
        flush=True,
    )


def compare_warm(guest: Guest, rounds: int) -> None:
    """Run both in turn: the start of a guest that was kept, up to its userland, and QEMU's boot.

    Our time is the process's but for the time for which its guest ran, so it includes the process's end.
    """
    machine = ["--vcpus", "1", "--memory", f"{MEMORY}M", "--cpu", "cortex-a72", "--engine", "unicorn"]
    command = [*PVTIME, *machine, "--warm", "--duration", "0.001", "--quiet", "--report", "-"]
    timed(command)  # the guest is booted and kept
    pairs = [(timed(command), timed(guest.qemu(1))) for _ in range(rounds)]
    starts = [own.wall - json.loads(own.output)["elapsed_seconds"] for own, _ in pairs]
    ours, theirs = statistics.median(starts), statistics.median(other.wall for _, other in pairs)
    ratios = [own / other.wall for own, (_, other) in zip(starts, pairs, strict=True)]
    note = f"{ours:.2f} s and {theirs:.2f} s"
    print_rows([Row(2, "warm start beside QEMU's boot, 1 vCPU", ratios, WARM_GOAL, note)])


def main() -> None:
    """Compare all cases.

    :raises SystemExit: there are no images, or a guest did not power off.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each, in turn (default: 5)")
    parser.add_argument("--kernel", type=Path, action="append", help="boot this one too; may be repeated")
    options = parser.parse_args()
    rounds = max(1, options.rounds)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if shutil.which(QEMU) is None:
        print(f"skipped: there is no {QEMU} to compare with; install qemu-system-arm")
        return
    try:
        images = stock_images(cache_directory())
    except PvtimeError as error:
        raise SystemExit(f"pvtime: {error}") from error
    with tempfile.TemporaryDirectory() as folder:
        guest = Guest(images.kernel, Path(folder, "initrd"))
        guest.initrd.write_bytes(build_initramfs(images.busybox))
        timed(guest.qemu(1))  # both read the same files: into the page cache with them
        for case in CASES:
            compare(guest, case, rounds)
        compare_warm(guest, rounds)
        for kernel in options.kernel or ():
            for case in CASES:
                if case.internals == "auto" and case.goal is not None:
                    compare(Guest(kernel, guest.initrd), case, rounds)


if __name__ == "__main__":
    main()
