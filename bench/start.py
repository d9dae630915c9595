# SPDX-License-Identifier: GPL-2.0-or-later
"""CPU time from the start of a process to the version, and to a guest's first instruction.

Each is a ratio to ``python -c pass`` of the same interpreter, in turn: a busy host slows both. With
``--imports`` it prints the dearest imports of a run instead, as ``python -X importtime`` measures them.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from table import Row, print_rows

FIRST = [sys.executable, str(Path(__file__).with_name("until_first.py"))]
RUN = ["run", "--engine", "unicorn", "--quiet"]
BARE = [sys.executable, "-c", "pass"]
MEASURES = (
    ("pvtime --version", [sys.executable, "-m", "pvtime", "--version"], 2.2),
    ("pvtime run to the guest's first instruction", [*FIRST, *RUN], 14.0),
    ("pvtime run --warm to the guest's first instruction", [*FIRST, *RUN, "--warm"], None),
)
"""Each with the ratio to reach: half of what it was (4.4 and 27.8, its modules compiled at each start)."""


def cpu_s(command: Sequence[str]) -> float:
    """Return the CPU time of a process in s.

    :raises SystemExit: it failed.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.decode()}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def dearest_imports(rounds: int, count: int) -> None:
    """Print the modules whose own code takes the longest to run, by the least of some rounds."""
    best: dict[str, int] = {}
    for _ in range(rounds):
        command = [sys.executable, "-X", "importtime", *FIRST[1:], *RUN]
        told = subprocess.run(command, capture_output=True, text=True, check=False).stderr
        for own, name in re.findall(r"import time: +(\d+) \| +\d+ \| +(\S+)", told):
            best[name] = min(int(own), best.get(name, int(own)))
    print(
        f"{len(best)} modules, {sum(best.values()) / 1e3:.0f} ms; the dearest, each without what it imports:"
    )
    for name in sorted(best, key=lambda name: -best[name])[:count]:
        print(f"{best[name] / 1e3:8.1f} ms  {name}")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11, help="runs of each, in turn (default: 11)")
    parser.add_argument("--imports", action="store_true", help="print the dearest imports instead")
    options = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    commands = [BARE, *(command for _, command, _ in MEASURES)]
    for command in commands:
        cpu_s(command)  # writes bytecode, and keeps the guest of the warm start
    if options.imports:
        dearest_imports(options.rounds, 30)
        return
    rounds = [[cpu_s(command) for command in commands] for _ in range(max(1, options.rounds))]
    rows = []
    for number, (name, _, goal) in enumerate(MEASURES, start=1):
        ratios = [times[number] / times[0] for times in rounds]
        took = statistics.median(times[number] for times in rounds)
        rows.append(
            Row(4, f"CPU time of {name}, beside python -c pass", ratios, goal, f"{took * 1e3:.0f} ms")
        )
    print_rows(rows)


if __name__ == "__main__":
    main()
