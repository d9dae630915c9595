# SPDX-License-Identifier: GPL-2.0-or-later
"""Computing in a guest on the embedded engine, beside QEMU's TCG: a loop, copies, system calls, switches.

Both boot the same kernel with an init that does a fixed amount of each and prints a line after it. The figure
is the process's CPU time from line to line, so that a busy host does not count; each is a ratio, in turn.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from table import Row, print_rows

from pvtime.errors import PvtimeError
from pvtime.images.cache import cache_directory
from pvtime.images.store import stock_images
from pvtime.userland import cpio

QEMU: Final = "qemu-system-aarch64"
MEMORY: Final = 256
"""MiB."""
MARK: Final = "bench: "
GOAL: Final = 1.1
TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")

INIT: Final = """#!/bin/sh
/bin/busybox mount -t devtmpfs devtmpfs /dev
export PATH=/bin
dd if=/dev/zero of=/tmp/file bs=1M count=16 2> /dev/null
echo 'bench: begin'
i=0; while [ $i -lt 150000 ]; do i=$((i + 1)); done
echo 'bench: a loop of the shell'
i=0; while [ $i -lt 60 ]; do dd if=/tmp/file of=/dev/null bs=1M 2> /dev/null; i=$((i + 1)); done
echo 'bench: copies of memory'
dd if=/dev/zero of=/dev/null bs=1 count=150000 2> /dev/null
echo 'bench: system calls'
dd if=/dev/zero bs=1 count=30000 2> /dev/null | dd of=/dev/null bs=1 2> /dev/null
echo 'bench: a pipe between processes'
poweroff -f
"""


def initramfs(busybox: Path) -> bytes:
    """Return the archive of the guest's files."""
    return cpio.archive(
        [
            *(cpio.directory(name) for name in ("bin", "dev", "tmp")),
            cpio.char_device("dev/console", 5, 1),
            cpio.regular("bin/busybox", busybox.read_bytes(), 0o755),
            *(cpio.symlink(f"bin/{name}", "busybox") for name in ("sh", "dd", "poweroff")),
            cpio.regular("init", INIT.encode(), 0o755),
        ]
    )


def cpu_s(pid: int) -> float:
    """Return a process's CPU time in s."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def parts(command: Sequence[str]) -> dict[str, float]:
    """Run a guest, and return the CPU time of each part, in s.

    :raises SystemExit: it did not come to its end.
    """
    times: dict[str, float] = {}
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        before = 0.0
        for line in process.stdout:
            if line.startswith(MARK):
                now = cpu_s(process.pid)
                times[line.removeprefix(MARK).strip()] = now - before
                before = now
    if times.pop("begin", None) is None or len(times) != INIT.count(MARK) - 1:
        raise SystemExit(f"{command[0]}: the guest did not come to its end")
    return times


def main() -> None:
    """Compare.

    :raises SystemExit: there are no images, or a guest failed.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, in turn (default: 3)")
    rounds = max(1, parser.parse_args().rounds)
    if shutil.which(QEMU) is None:
        print(f"skipped: there is no {QEMU} to compare with; install qemu-system-arm")
        return
    try:
        images = stock_images(cache_directory())
    except PvtimeError as error:
        raise SystemExit(f"pvtime: {error}") from error
    with tempfile.TemporaryDirectory() as folder:
        initrd = Path(folder, "initrd")
        initrd.write_bytes(initramfs(images.busybox))
        guest = ["--kernel", str(images.kernel), "--initrd", str(initrd), "--append", "quiet"]
        ours = [sys.executable, "-m", "pvtime", "run", "--engine", "unicorn", "--cpu", "cortex-a72"]
        ours += ["--memory", f"{MEMORY}M", *guest]
        theirs = [QEMU, "-M", "virt,gic-version=2", "-cpu", "cortex-a72", "-accel", "tcg", "-m", str(MEMORY)]
        theirs += ["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"]
        theirs += [word.replace("--", "-") for word in guest]
        pairs = [(parts(ours), parts(theirs)) for _ in range(rounds)]
    names = list(pairs[0][0])
    print_rows(
        Row(
            5,
            f"{name} in the guest, beside QEMU's TCG",
            [own[name] / other[name] for own, other in pairs],
            GOAL,
        )
        for name in names
    )


if __name__ == "__main__":
    main()
