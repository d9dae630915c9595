# SPDX-License-Identifier: GPL-2.0-or-later
"""Times of save, restore and migration of an idle Debian guest of 256 MB on the embedded engine.

Each round boots a guest, saves it with --keep-running, restores the saved machine, and migrates the guest
that ran on to another process. The figure of a migration is its pause, also as a ratio to save and restore of
the same round together: the time for which the guest would else be away.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from table import Row, print_rows

from pvtime.engine.unicorn.engine import UnicornEngine
from pvtime.machine.image import KernelImage
from pvtime.machine.machine import Machine, MachineConfig
from pvtime.run.inbox import Inbox
from pvtime.run.options import RunOptions
from pvtime.run.source import NO_SCREEN, FromSaved
from pvtime.snapshot.description import Description
from pvtime.snapshot.directory import write
from pvtime.snapshot.state import SavedState

PVTIME = [sys.executable, "-m", "pvtime"]
GUEST = ("--memory", "256M", "--busy", "0", "--engine", "unicorn")
LIMIT = 120
"""Seconds after which a guest has failed to boot."""
SETTLE = 1.0
"""Seconds from userland on after which the guest is idle."""
GOALS = {"save": 0.19, "restore": 0.11, "pause of a move": 0.037}
"""Seconds: what each took before."""
BIG, IN_USE, BIG_GOAL = 4 << 30, 200 << 20, 0.15
"""Bytes of another guest's memory, those of them in use, and seconds to reach for its restore."""


@dataclass(frozen=True)
class Round:
    """Times in s."""

    save: float
    """The guest is paused for all of it."""
    restore: float
    """From the directory to a guest that runs."""
    pause: float
    """Pause of a migration."""
    moved: dict[str, Any]


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run pvtime beside the bench."""
    process = subprocess.Popen(
        [*PVTIME, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for_line(process: subprocess.Popen[str], text: str) -> None:
    """Read what a run prints until a line has ``text``.

    :raises SystemExit: it ended before.
    """
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    raise SystemExit(f"pvtime ended before it said {text!r}")


def ask(*arguments: str) -> dict[str, Any]:
    """Run a command and return what it prints as JSON.

    :raises SystemExit: it failed.
    """
    done = subprocess.run(
        [*PVTIME, *arguments, "--json"], capture_output=True, text=True, check=False, timeout=LIMIT
    )
    if done.returncode:
        raise SystemExit(done.stderr.strip())
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def restore(directory: Path) -> float:
    """Restore a machine; return the time until it runs."""
    inbox = Inbox()
    began = time.monotonic()
    built = FromSaved(directory).build(RunOptions(quiet=True), inbox, NO_SCREEN)
    built.engine.start()
    took = time.monotonic() - began
    built.engine.stop()
    built.machine.close()
    inbox.close()
    return took


def one_round(folder: Path) -> Round:
    """Save, restore and migrate one guest."""
    control, peer, directory = folder / "control", f"unix:{folder}/peer", folder / "machine"
    with running("run", *GUEST, "--control", str(control)) as source:
        wait_for_line(source, "using stolen time PV")
        wait_for_line(source, "Run /init")
        time.sleep(SETTLE)
        saved = ask("save", str(control), str(directory), "--keep-running")
        restored = restore(directory)
        with running("receive", peer) as target:
            wait_for_line(target, "waiting for a machine")
            moved = ask("migrate", str(control), peer)
    return Round(saved["pause_ns"] / 1e9, restored, moved["pause_ns"] / 1e9, moved)


def big_restores(count: int) -> list[float]:
    """Save a large machine whose memory is written in every 20th MiB; return the times of its restores."""
    config = MachineConfig(1, BIG, KernelImage(bytes(4096), 0, 1 << 20, None))
    machine = Machine(config, lambda _: None, lambda _: None)
    engine = UnicornEngine(machine)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder, "machine")
        description = Description(engine.name, config, agent=False, release=None)
        engine.start()
        engine.pause()
        data = os.urandom(1 << 20)
        for offset in range(0, BIG, BIG // (IN_USE >> 20)):
            machine.memory.write(machine.memory.base + (offset >> 20 << 20), data)
        write(directory, description, SavedState.of(machine, engine), machine.memories)
        engine.stop()
        machine.close()
        return [restore(directory) for _ in range(count + 1)][1:]


def main() -> None:
    """Do some rounds and print the medians.

    :raises SystemExit: a guest failed.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how many (default: 5)")
    count = max(1, parser.parse_args().rounds)
    rounds = []
    for _ in range(count):
        with tempfile.TemporaryDirectory() as folder:
            rounds.append(one_round(Path(folder)))
    for (name, goal), field in zip(GOALS.items(), ("save", "restore", "pause"), strict=True):
        values = [getattr(one, field) for one in rounds]
        print_rows([Row(7, f"{name}, idle guest of 256 MB, in s", values, goal)])
    print_rows([Row(7, "restore of 4 GiB of which 200 MiB are in use, in s", big_restores(count), BIG_GOAL)])
    ratio = statistics.median(one.pause / (one.save + one.restore) for one in rounds)
    size = statistics.median(one.moved["sent_bytes"] for one in rounds) / (1 << 20)
    rest = statistics.median(one.moved["paused_bytes"] for one in rounds) / (1 << 20)
    print(f"    migration: {size:.0f} MiB sent, the last {rest:.2f} MiB while it was paused")
    print(f"    its pause, as a ratio to a save and a restore: {ratio:.2f}")


if __name__ == "__main__":
    main()
