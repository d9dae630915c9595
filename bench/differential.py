# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes generated sequences of hypervisor calls on KVM, in the lab, and on the embedded engine, and compares.

The tests do so with 2,500 sequences; this is for more of them: ``bench/differential.py --sequences 10000``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from framework.differential import Answers, answers_of, differences, generate  # noqa: E402
from framework.engines import CHOICES  # noqa: E402
from pvtime.lab.initramfs import LabExtras  # noqa: E402
from pvtime.lab.lab import Lab  # noqa: E402
from pvtime.lab.qemu import LabOptions  # noqa: E402
from pvtime.machine.gic import GicVersion  # noqa: E402

LIMIT_S = 6 * 3600
SHOWN = 20


def on_kvm(sequences: int) -> Answers:
    """Make the calls on KVM, in a lab.

    :raises SystemExit: they did not come to an end.
    """
    extras = LabExtras(distributions=("pytest",), trees={"root/tests": ROOT / "tests"})
    program = ("python3", "-m", "framework.differential", "kvm", "answers.json", str(sequences))
    with tempfile.TemporaryDirectory() as directory, Lab(LabOptions(), extras=extras) as lab:
        path = Path(directory, "answers.json")
        done = lab.run(
            program, timeout=LIMIT_S, env={"PYTHONPATH": "tests"}, out_files={"answers.json": path}
        )
        if done.exit_code:
            sys.exit(done.stderr.decode(errors="replace"))
        return Answers(**json.loads(path.read_text()))


def main() -> int:
    """Compare, and print the figures; return 1 where the engines differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=10_000)
    sequences = parser.parse_args().sequences
    calls = generate(sequences)
    begin = time.monotonic()
    kvm = on_kvm(sequences)
    print(f"kvm: {len(calls)} calls in {sequences} sequences, {time.monotonic() - begin:.0f} s", flush=True)
    failed = False
    for choice in CHOICES["unicorn"]:
        for gic in (GicVersion.V2, GicVersion.V3):
            begin = time.monotonic()
            different = differences(calls, kvm, answers_of(choice, gic, sequences))
            took = time.monotonic() - begin
            print(
                f"{choice}, GIC{gic.value}: {len(different)} differ, {took:.0f} s",
                *different[:SHOWN],
                sep="\n",
            )
            failed |= bool(different)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
