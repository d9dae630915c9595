#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Judge a right machine again and again: tell which checks failed or gave no verdict, and count the verdicts.

    bench/many_judgements.py NUMBER [--lab] [--busy PROCESSES] -- JUDGE ARGUMENTS

runs ``pvtime judge --json JUDGE ARGUMENTS`` NUMBER times: on this machine, or one after the other in one
lab. Beside it, PROCESSES compute, for the machine to be judged under load. It prints a line for each
judgement, before it the reason and the figures of a check that failed or gave no verdict, and at the end
how often each verdict was. The exit code is 1 if a check has failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pvtime.lab.initramfs import LabExtras, fetch
from pvtime.lab.lab import Lab
from pvtime.lab.qemu import LabOptions

JUDGE = ["judge", "--json", "--timeout", "900"]
HOG = "while True: pass"
QEMU = "qemu-system-aarch64"
DECISIVE = ("grows_by_run_delay", "pause", "migrate", "reset")


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """Have processes compute, for the time of a ``with`` block."""
    hogs = [subprocess.Popen([sys.executable, "-c", HOG]) for _ in range(processes)]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def judge_here(arguments: Sequence[str]) -> str:
    """Return a judgement on this machine, as JSON."""
    command = [sys.executable, "-m", "pvtime", *JUDGE, *arguments]
    return subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True).stdout


@contextlib.contextmanager
def judge_in_lab(arguments: Sequence[str]) -> Iterator[Callable[[Sequence[str]], str]]:
    """Return a function that judges in a lab, which has QEMU if a command starts that."""
    extras = LabExtras(programs=("qemu-system-arm",) if QEMU in arguments else ())
    fetch(extras=extras)
    with Lab(LabOptions(memory=3072), extras=extras) as lab:
        yield lambda words: lab.run(["pvtime", *JUDGE, *words]).stdout.decode()


def reasons(document: dict[str, Any]) -> Iterator[str]:
    """Yield a text for each check that failed, or on which a verdict depends that was not to be had."""
    for check in document["checks"]:
        if check["verdict"] == "fail" or (check["verdict"] == "skip" and check["name"] in DECISIVE):
            yield "\n    ".join([f"{check['name']}: {check['reason']}", *check["details"]])


def main() -> int:
    """Judge, and count."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("number", type=int)
    parser.add_argument("--lab", action="store_true")
    parser.add_argument("--busy", type=int, default=0)
    words = sys.argv[1:]
    own = words.index("--") if "--" in words else len(words)
    options, arguments = parser.parse_args(words[:own]), words[own + 1 :]
    verdicts: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        stack.enter_context(busy(options.busy))
        judge = stack.enter_context(judge_in_lab(arguments)) if options.lab else judge_here
        for number in range(1, options.number + 1):
            begin = time.monotonic()
            document = json.loads(judge(arguments))
            verdicts[document["verdict"]] += 1
            for text in reasons(document):
                print(f"{number}: {text}", flush=True)
            took, load = time.monotonic() - begin, os.getloadavg()[0]
            print(f"{number}: {document['verdict']}, {took:.1f} s, load {load:.1f}", flush=True)
    for name, count in verdicts.most_common():
        print(f"{count:5} {name}")
    return int(verdicts["wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main())
