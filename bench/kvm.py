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

from table import Row, print_rows

from pvtime.errors import PvtimeError
from pvtime.lab.initramfs import LabExtras, fetch
from pvtime.lab.lab import Lab
from pvtime.lab.qemu import PROGRAM, LabOptions

ROOT = Path(__file__).parents[1]
TARGET = "qemu-system-arm"
MEMORY = 3072
"""MiB of the lab: QEMU's libraries are in its RAM too."""
BOOT_GOALS = {"1 vCPU, quiet": 1.2, "2 vCPU, quiet": 1.1}


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
        pairs = list(zip(by_vmm["pvtime"], by_vmm["QEMU"], strict=True))
        ours, theirs = (statistics.median(by_vmm[name]) for name in ("pvtime", "QEMU"))
        ratios = [own / other for own, other in pairs]
        note = f"{ours:.2f} s and {theirs:.2f} s"
        print_rows([Row(3, f"KVM in the lab beside QEMU, {what}", ratios, BOOT_GOALS.get(what), note)])
    pairs = list(zip(exits["1"], exits["2"], strict=True))
    name = "KVM in the lab: time of an exit with 2 vCPUs beside 1"
    print_rows([Row(None, name, [one / two for one, two in pairs], None)])


if __name__ == "__main__":
    main()
