# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime cost`` on this host's own KVM. Times are never compared with each other: the host may be busy."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from framework.own_kvm import need_x86_kvm
from framework.wait import DEADLINE, wait_until

ROUNDS = 12
"""More than an interval of 99.5 % needs."""
TRIPS = {"undisturbed": 15 + 1, "preempted": 5 + 1}


def run(*options: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "pvtime", "cost", "--rounds", str(ROUNDS), "--duration", "60", *options],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


def ordered(interval: dict[str, float]) -> bool:
    """Whether an interval contains its median."""
    return interval["low"] <= interval["median"] <= interval["high"]


def check_load(load: dict[str, Any]) -> None:
    """Check what must be so however busy the host is."""
    assert load["loads"] == load["rounds"] * TRIPS[load["name"]]
    for kind in ("without_ns", "with_ns"):
        figures = load[kind]
        assert figures["count"] == load["rounds"] * (TRIPS[load["name"]] - 1)
        assert 0 < figures["lower_quartile"] <= figures["median"] <= figures["upper_quartile"]
    # KVM updates at each load: those of KVM_RUN, and those of a thread that was preempted inside of it.
    assert load["updates"] >= load["loads"]
    assert load["updates_without"] == 0
    for name in ("difference_ns", "control_ns", "update_ns"):
        assert ordered(load[name])
        assert load[name]["confidence"] >= 0.99
    difference, control, update = (load[f"{name}_ns"] for name in ("difference", "control", "update"))
    assert update["median"] == difference["median"] - control["median"]
    assert (update["low"], update["high"]) == (
        difference["low"] - control["high"],
        difference["high"] - control["low"],
    )
    assert load["distinguishable"] is (update["low"] > 0)


def test_every_load_with_stolen_time_is_an_update_and_none_without() -> None:
    need_x86_kvm()
    done = run("--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert (document["schema"], document["machine"], document["exit"]) == (1, "x86_64", "HLT")
    assert document["cpu"] == max(os.sched_getaffinity(0))
    assert document["call_ns"]["median"] > 0
    assert [load["name"] for load in document["loads"]] == list(TRIPS)
    for load in document["loads"]:
        assert load["rounds"] == ROUNDS
        check_load(load)


def test_the_table_has_a_row_and_a_verdict_for_each_kind_of_load() -> None:
    need_x86_kvm()
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    for name in TRIPS:
        assert sum(line.split()[:1] == [name] for line in done.stdout.splitlines()) == 1
        verdicts = [line for line in done.stdout.splitlines() if line.startswith(f"{name}: ")]
        assert len(verdicts) == 1
        assert "with 99% confidence" in verdicts[0]
        assert verdicts[0].endswith("be told from this host's noise.")


def handles(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool(int(fields["SigCgt"], 16) >> (number - 1) & 1)


def test_ctrl_c_ends_it_and_its_helper_without_a_word() -> None:
    need_x86_kvm()
    process = subprocess.Popen(
        [sys.executable, "-m", "pvtime", "cost", "--rounds", "100000", "--duration", "600"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    helper = wait_until(lambda: children.read_text().split(), message="it has started no helper")[0]
    # Between fork and exec it is its parent's copy, in its group and with its handlers.
    wait_until(
        lambda: os.getpgid(int(helper)) != process.pid,
        message="the helper has no group of its own: it would print a traceback, if it is quick",
    )
    wait_until(lambda: handles(int(helper), signal.SIGINT), message="its helper has not started")
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, out, err) == (130, "", "")
    wait_until(lambda: not Path(f"/proc/{helper}").exists(), message="its helper is left behind")
