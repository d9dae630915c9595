# SPDX-License-Identifier: GPL-2.0-or-later
"""The kvm engine beside QEMU's on one arm64 host, in the lab: boots, and exits a second.

Process start to the guest's power-off, with the same kernel and initramfs, by pvtime and by Debian's QEMU for
arm64 (KVM, stolen time on), in one boot of the lab and in turn. The figures are ratios of medians: an
emulated host is slow, and both suffer alike.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from collections import defaultdict
from pathlib import Path

from pvtime.errors import PvtimeError
from pvtime.lab.initramfs import LabExtras, fetch
from pvtime.lab.lab import Lab
from pvtime.lab.qemu import PROGRAM, LabOptions

ROOT = Path(__file__).parents[1]
TARGET = "qemu-system-arm"
MEMORY = 3072
"""MiB of the lab: QEMU's libraries are in its RAM too."""
BOOT_GOAL = 1.0
EXITS_GOAL = 1.5


def measure(rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return every figure, by measurement and by VMM or number of vCPUs.

    :raises SystemExit: a boot failed in the lab.
    """
    # The lab's own assembler is that of the tests.
    trees = {"opt/bench": ROOT / "bench", "opt/bench/framework": ROOT / "tests/framework"}
    extras = LabExtras(programs=(TARGET,), trees=trees)
    with Lab(LabOptions(memory=MEMORY), extras=extras) as lab:
        run = lab.run(["python3", "/opt/bench/kvm_host.py", str(rounds)])
    if run.exit_code:
        raise SystemExit(f"failed in the lab: {run.stderr.decode(errors='replace').strip()}")
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in run.stdout.splitlines():
        what, on, figure = json.loads(line)
        figures[what][on].append(figure)
    return figures


def verdict(ratio: float, goal: float, reached: bool) -> str:
    """Return a ratio in words."""
    return f"ratio {ratio:.2f} (to reach: {goal}{', reached' if reached else ''})"


def main() -> None:
    """Compare.

    :raises SystemExit: there is no lab, or a boot failed in it.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each, in turn (default: 5)")
    rounds = max(1, parser.parse_args().rounds)
    if shutil.which(PROGRAM) is None:
        print(f"skipped: there is no {PROGRAM} for the lab; install qemu-system-arm")
        return
    try:
        fetch()
        figures = measure(rounds)
    except PvtimeError as error:
        raise SystemExit(f"pvtime: {error}") from error
    exits = figures.pop("exits")
    for what, by_vmm in figures.items():
        ours, theirs = (statistics.median(by_vmm[name]) for name in ("pvtime", "QEMU"))
        words = verdict(ours / theirs, BOOT_GOAL, ours <= BOOT_GOAL * theirs)
        print(f"kvm in the lab, {what}: pvtime {ours:.2f} s, QEMU {theirs:.2f} s, {words}")
    one, two = (statistics.median(exits[vcpus]) for vcpus in ("1", "2"))
    words = verdict(two / one, EXITS_GOAL, two >= EXITS_GOAL * one)
    print(f"kvm in the lab, exits a second: 1 vCPU {one:.0f}, 2 vCPUs {two:.0f}, {words}")


if __name__ == "__main__":
    main()
