# SPDX-License-Identifier: GPL-2.0-or-later
"""Two VMs of QEMU's and a hog, as an operator sees them: pvtime top, pvtime who, and a real Prometheus.

Beside them are a VM with a quota, and a machine of pvtime's that tells its guest what is not true. Each alert
fires on its own VM. QEMU emulates its CPUs here; tests/kvm/test_who.py has it on KVM.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from framework.prometheus import prometheus_programs
from framework.traced import hog
from framework.wait import wait_until
from pvtime.abi.image import ImageHeader
from pvtime.abi.pvtime import PvTime
from pvtime.lab.qemu import PROGRAM
from pvtime.machine.layout import RAM_BASE
from pvtime.probe.assembler import Program

PVTIME = [sys.executable, "-m", "pvtime"]
SHIPPED = Path(__file__).parents[2] / "contrib" / "export"
WEB1, WEB2, RIGHT, WRONG = (f"{name}-{os.getpid()}" for name in ("web1", "web2", "right", "wrong"))
"""Names of VMs that nobody else on this host has."""
CPU = min(os.sched_getaffinity(0))
"""The two VMs and the hog are here."""
POLL_INTERVAL_S = 0.1
"""Between two questions to Prometheus."""
SPIN = bytes.fromhex("00000014")
"""``b .``"""

LIMITED = """
import os, sys, threading
def name(text):
    with open("/proc/thread-self/comm", "w") as file:
        file.write(text)
def vcpu():
    name("CPU 0/KVM")
    os.sched_setaffinity(0, {int(sys.argv[1])})
    print(threading.get_native_id(), flush=True)
    while True:
        pass
name("qemu-system-x86")
threading.Thread(target=vcpu, daemon=True).start()
sys.stdin.read()
"""
"""A VM as its host sees it, with a vCPU that always computes."""

APART = """
import sys
from pvtime.cli.command import main
from pvtime.steal.account import Account
start = Account.init_stolen_time
def not_from_zero(account, run_delay):
    ipa = start(account, run_delay)
    account._structure.store(200_000_000)
    return ipa
if sys.argv[1].startswith("wrong"):
    Account.init_stolen_time = not_from_zero
sys.exit(main(["run", "--engine", "unicorn", "--name", *sys.argv[1:], "--memory", "64M"]))
"""
"""A machine of pvtime's, which tells its guest of 0.2 s that were not stolen if its name says ``wrong``."""


@contextlib.contextmanager
def started(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Have a process that reads its standard input, and hears SIGTERM at the end."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.communicate()


def qemu(name: str, image: Path, *options: str) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    """Have a VM whose guest computes for ever on the one CPU."""
    machine = ["-M", "virt", "-cpu", "cortex-a72", "-m", "64", "-nodefaults", "-display", "none"]
    named = ["-name", f"{name},debug-threads=on", "-accel", "tcg,thread=multi", "-kernel", str(image)]
    return started("taskset", "-c", str(CPU), PROGRAM, *machine, *named, *options)


@contextlib.contextmanager
def limited() -> Iterator[int]:
    """Have a VM whose vCPU runs for a fifth of the time by a quota, before others; yield its process."""
    cpu = Path("/sys/fs/cgroup/cpu")
    if os.geteuid() or not cpu.joinpath("cgroup.procs").exists():
        pytest.skip("it needs root, and the controller cpu of cgroups version 1")
    group = cpu / f"pvtime-alerts-{os.getpid()}"
    group.mkdir()
    place = max(os.sched_getaffinity(0))
    try:
        with started(sys.executable, "-I", "-S", "-c", LIMITED, str(place)) as process:
            assert process.stdout is not None
            tid = process.stdout.readline().decode()
            group.joinpath("cpu.shares").write_text("262144")
            group.joinpath("cpu.cfs_quota_us").write_text("20000")
            group.joinpath("tasks").write_text(tid)
            yield process.pid
            cpu.joinpath("tasks").write_text(tid)
    finally:
        wait_until(lambda: not group.joinpath("tasks").read_text())
        group.rmdir()


def idle_image() -> bytes:
    """Return an arm64 Image whose guest asks for its stolen time, and sleeps."""
    header = ImageHeader(image_size=2 << 20, flags=0b1010, magic=b"ARM\x64")
    code = Program(RAM_BASE).b("start").nop().word(*memoryview(bytes(header)[8:]).cast("I"))
    code.label("start").mov(0, PvTime.ST).hvc().label("again").wfi().b("again")
    assert ctypes.sizeof(header) == 64
    return code.assemble()


def sooner(name: str, directory: Path, *, wait: str, span: str) -> str:
    """Write a copy of a file of rules, with other times of alerts and of rates; all else is equal."""
    text = re.sub(r"(?m)^( +for:) \S+$", rf"\1 {wait}", SHIPPED.joinpath(name).read_text())
    copy = directory / name
    copy.write_text(text.replace("[5m]", f"[{span}]"))
    return str(copy)


@dataclass
class Prometheus:
    """A Prometheus that scrapes an exporter of this host."""

    port: int

    def ask(self, query: str) -> Any:
        """Return the data of an answer; None: there is none yet."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/{query}", timeout=5) as answer:
                return json.load(answer)["data"]
        except OSError:
            return None

    def scrapes(self) -> bool:
        """Whether the exporter was scraped."""
        return bool((self.ask("query?query=up==1") or {}).get("result"))

    def waits(self, vm: str) -> float | None:
        """Return the number of a VM's waits; None: there is none now, as after a scrape that came late."""
        query = f'query?query=pvtime_vcpu_wait_seconds_count{{vm="{vm}"}}'
        found = (self.ask(query) or {}).get("result")
        return float(found[0]["value"][1]) if found else None

    def firing(self) -> set[tuple[str, str]]:
        """Return the alerts that fire, with the VM."""
        found = (self.ask("alerts") or {}).get("alerts", [])
        return {
            (alert["labels"]["alertname"], alert["labels"]["vm"])
            for alert in found
            if alert["state"] == "firing"
        }

    def rules(self) -> list[str] | None:
        """Return the health of all rules once each was evaluated."""
        groups = (self.ask("rules") or {}).get("groups", [])
        health = [rule["health"] for group in groups for rule in group["rules"]]
        return health if len(groups) == 2 and "unknown" not in health else None


@contextlib.contextmanager
def prometheus(directory: Path) -> Iterator[Prometheus]:
    """Have a Prometheus with the shipped rules, but for their times, and the exporter."""
    program = prometheus_programs()["prometheus"]
    exported, port = free_port(), free_port()
    targets = [{"targets": [f"127.0.0.1:{exported}"]}]
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "500ms"},
        "rule_files": [sooner(name, directory, wait="1s", span="6s") for name in ("rules.yml", "alerts.yml")],
        "scrape_configs": [{"job_name": "pvtime", "static_configs": targets}],
    }
    file = directory / "prometheus.yml"
    file.write_text(json.dumps(config))  # JSON is YAML
    options = [f"--storage.tsdb.path={directory}/data", f"--web.listen-address=127.0.0.1:{port}"]
    with (
        started(*PVTIME, "export", "--waits", "--listen", f"127.0.0.1:{exported}"),
        started(program, f"--config.file={file}", *options),
    ):
        yield Prometheus(port)


def free_port() -> int:
    """Return a port of this host's that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def output(*arguments: str) -> str:
    """Return what a command prints, which must succeed and complain of nothing."""
    done = subprocess.run([*PVTIME, *arguments], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


def row_of(vm: str, pid: int) -> dict[str, Any] | None:
    """Return a process's row among those that stole from a VM; None: it did not run in that time."""
    (found,) = json.loads(output("who", vm, "--duration", "0.5", "--json"))["vms"]
    rows = (cause for cause in found["vcpus"][0]["causes"] if cause["pid"] == pid)
    return next(rows, None)


def test_who_suffers_is_seen_the_hog_is_named_and_each_alert_fires_on_its_own_vm(tmp_path: Path) -> None:
    if shutil.which(PROGRAM) is None:
        pytest.skip(f"{PROGRAM} is not installed (Debian: apt install qemu-system-arm)")
    spin, idle = tmp_path / "spin", tmp_path / "idle"
    spin.write_bytes(SPIN)
    idle.write_bytes(idle_image())
    with (
        prometheus(tmp_path) as fleet,
        started(sys.executable, "-c", APART, RIGHT, "--kernel", str(idle)),
        started(sys.executable, "-c", APART, WRONG, "--kernel", str(idle)),
        qemu(WEB2, spin, "-S"),
    ):
        # Prometheus begins to scrape 5 s after its start; those that compute come then.
        wait_until(fleet.scrapes, interval_s=POLL_INTERVAL_S)
        with qemu(WEB1, spin), limited() as short, hog(CPU) as thief:
            os.kill(thief, signal.SIGCONT)
            expected = {
                ("PvtimeNeighbourSteals", WEB1),
                ("PvtimeQuotaLooksLikeSteal", str(short)),
                ("PvtimeStructureApart", WRONG),
            }
            found = wait_until(
                lambda: firing if expected <= (firing := fleet.firing()) else None,
                message=lambda: fleet.ask("alerts"),
                interval_s=POLL_INTERVAL_S,
            )
            assert set(wait_until(fleet.rules, interval_s=POLL_INTERVAL_S)) == {"ok"}
            wait_until(lambda: fleet.waits(WEB1), interval_s=POLL_INTERVAL_S)
            table = output("top", "--once", "--interval", "0.5")
            named = wait_until(lambda: row_of(WEB1, thief))
    # What this host's other load steals from others is steal, and may be an alert too; so may other VMs have.
    own = {each for each in found if each[1] in (WEB1, WEB2, RIGHT, WRONG, str(short))}
    assert {each for each in own if each[0] != "PvtimeNeighbourSteals" or each[1] == WEB2} == (
        expected - {("PvtimeNeighbourSteals", WEB1)}
    )
    (suffers,) = [line for line in table.splitlines() if f"qemu:{WEB1}" in line]
    (sleeps,) = [line for line in table.splitlines() if f"qemu:{WEB2}" in line]
    assert suffers.split()[-1] == "others"
    assert sleeps.split()[4] == "0.0", table
    assert named["kind"] == "a process"
    assert named["name"].startswith("python")
