# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime export`` with a real Prometheus, and what is shipped for it."""

from __future__ import annotations

import contextlib
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
from pathlib import Path
from typing import Any

import pytest

from framework.wait import wait_until
from pvtime.images.cache import cache_directory
from pvtime.watch.exporter import COUNTERS, GAUGES

SHIPPED = Path(__file__).parents[2] / "contrib" / "export"


@pytest.fixture
def programs() -> dict[str, str]:
    """Return the paths of Prometheus' programs: the host's, or those of tools/fetch-prometheus."""
    places = os.pathsep.join([os.environ.get("PATH", ""), str(cache_directory() / "prometheus/usr/bin")])
    found = {name: shutil.which(name, path=places) for name in ("prometheus", "promtool")}
    if None in found.values():
        pytest.skip("prometheus is not there (make test fetches it: tools/fetch-prometheus)")
    return {name: str(path) for name, path in found.items()}


def free_port() -> int:
    """Return a port of this host's that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_each_alert_fires_on_its_own_cause_and_on_nothing_else(programs: dict[str, str]) -> None:
    for command in (["check", "rules", "rules.yml", "alerts.yml"], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run(
            [programs["promtool"], *command], cwd=SHIPPED, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_rules_and_dashboard_use_only_metrics_that_exist() -> None:
    known = {f"{name}_total" for name in COUNTERS} | set(GAUGES)
    recorded = set(re.findall(r"record: (\S+)", SHIPPED.joinpath("rules.yml").read_text()))
    for name in ("rules.yml", "alerts.yml", "dashboard.json"):
        text = SHIPPED.joinpath(name).read_text()
        used = set(re.findall(r"(?<![:\w])pvtime_\w+", text))
        assert used <= known, name
        assert set(re.findall(r"\b\w+:pvtime_\w+:\w+", text)) <= recorded, name


def test_the_dashboard_has_what_grafana_wants_of_each_panel() -> None:
    """By Grafana's JSON model (schemaVersion 36): no Grafana is there to load it."""
    dashboard = json.loads(SHIPPED.joinpath("dashboard.json").read_text())
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert {"title", "uid", "schemaVersion", "time", "panels"} <= set(dashboard)
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["type"] in {"timeseries", "stat", "table", "row", "bargauge", "heatmap"}
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references) > 0
        for target in panel["targets"]:
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= set(variables), target["expr"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert variables["datasource"]["type"] == "datasource"


def test_systemd_loads_the_unit() -> None:
    unit = SHIPPED / "pvtime-export.service"
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (Debian: apt install systemd)")
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_kubernetes_knows_every_field_of_the_daemonset() -> None:
    """Kubectl has its types without a cluster: a wrong type fails, an unknown field is lost."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed (Debian: apt install kubernetes-client)")

    def local(*command: str) -> Any:
        file = str(SHIPPED / "daemonset.yaml")
        done = subprocess.run(
            ["kubectl", *command, "--local", "-f", file, "-o", "json"],
            stdout=subprocess.PIPE,
            check=True,
        )
        return json.loads(done.stdout)

    written = local("label", "app=pvtime-export", "--overwrite")
    typed = local("set", "image", "pvtime=another")
    assert unlike(written, typed) == ["spec.template.spec.containers.0.image"]
    assert written["spec"]["selector"]["matchLabels"].items() <= (
        written["spec"]["template"]["metadata"]["labels"].items()
    )


def unlike(written: Any, typed: Any, place: str = "") -> list[str]:
    """Return the places at which a document is not like another, which may have more."""
    if isinstance(written, dict) and isinstance(typed, dict):
        pairs = [(name, value, typed.get(name)) for name, value in written.items()]
    elif isinstance(written, list) and isinstance(typed, list) and len(written) == len(typed):
        pairs = [(str(at), *pair) for at, pair in enumerate(zip(written, typed, strict=True))]
    else:
        return [] if written == typed else [place.removeprefix(".")]
    return [found for name, one, other in pairs for found in unlike(one, other, f"{place}.{name}")]


FLEET = """
import os, sys, threading
def name(text):
    with open("/proc/thread-self/comm", "w") as file:
        file.write(text)
def vcpu(cpu, spins):
    name("CPU 0/KVM")
    if spins:
        os.sched_setaffinity(0, {cpu})
    print(threading.get_native_id(), flush=True)
    while spins:
        pass
    threading.Event().wait()
name("qemu-system-x86")
cpu, spins = map(int, sys.argv[1:])
threading.Thread(target=vcpu, args=(cpu, spins), daemon=True).start()
sys.stdin.read()
"""
"""A VM as its host sees it: a vCPU that computes on a CPU, or sleeps."""


@contextlib.contextmanager
def vm(cpu: int, *, spins: bool) -> Iterator[tuple[int, int]]:
    """Have such a VM; yield its process and its vCPU's thread."""
    command = [sys.executable, "-I", "-S", "-c", FLEET, str(cpu), str(int(spins))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield process.pid, int(process.stdout.readline())
        finally:
            process.kill()


@contextlib.contextmanager
def quota(tid: int) -> Iterator[None]:
    """Have a thread run for a fifth of the time, by a cgroup's quota, and before others of its CPU."""
    cpu = Path("/sys/fs/cgroup/cpu")
    if os.geteuid() or not cpu.joinpath("cgroup.procs").exists():
        pytest.skip("it needs root, and the controller cpu of cgroups version 1")
    group = cpu / f"pvtime-alerts-{os.getpid()}"
    group.mkdir()
    try:
        group.joinpath("cpu.shares").write_text("262144")
        group.joinpath("cpu.cfs_quota_us").write_text("20000")
        group.joinpath("tasks").write_text(str(tid))
        yield
    finally:
        cpu.joinpath("tasks").write_text(str(tid))
        group.rmdir()


def sooner(name: str, directory: Path, *, wait: str, span: str) -> str:
    """Write a copy of a file of rules, with other times of alerts and of rates; all else is equal."""
    text = re.sub(r"(?m)^( +for:) \S+$", rf"\1 {wait}", SHIPPED.joinpath(name).read_text())
    copy = directory / name
    copy.write_text(text.replace("[5m]", f"[{span}]"))
    return str(copy)


def test_a_real_prometheus_alerts_on_steal_that_the_test_made_and_on_nothing_else(
    programs: dict[str, str], tmp_path: Path
) -> None:
    exported, port = free_port(), free_port()
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "500ms"},
        "rule_files": [sooner(name, tmp_path, wait="1s", span="6s") for name in ("rules.yml", "alerts.yml")],
        "scrape_configs": [
            {"job_name": "pvtime", "static_configs": [{"targets": [f"127.0.0.1:{exported}"]}]}
        ],
    }
    file = tmp_path / "prometheus.yml"
    file.write_text(json.dumps(config))  # JSON is YAML
    commands = [
        [sys.executable, "-m", "pvtime", "export", "--waits", "--listen", f"127.0.0.1:{exported}"],
        [
            programs["prometheus"],
            f"--config.file={file}",
            f"--storage.tsdb.path={tmp_path}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
    ]

    def ask(query: str) -> Any:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{query}", timeout=5) as answer:
                return json.load(answer)["data"]
        except OSError:
            return None

    def firing() -> set[tuple[str, str]]:
        """Return the alerts that fire, with the VM."""
        found = (ask("alerts") or {}).get("alerts", [])
        return {
            (alert["labels"]["alertname"], alert["labels"]["vm"])
            for alert in found
            if alert["state"] == "firing"
        }

    one, *others = sorted(os.sched_getaffinity(0))
    with (
        vm(one, spins=True) as (victim, _),
        vm(one, spins=True),  # the hog: it is stolen from too
        vm(one, spins=False) as (quiet, _),
        vm(others[0] if others else one, spins=True) as (limited, thread),
        quota(thread),
        contextlib.ExitStack() as stack,
    ):
        for command in commands:
            process = stack.enter_context(subprocess.Popen(command, stderr=subprocess.DEVNULL))
            stack.callback(process.send_signal, signal.SIGTERM)
        expected = {("PvtimeNeighbourSteals", str(victim)), ("PvtimeQuotaLooksLikeSteal", str(limited))}
        wait_until(lambda: expected <= firing(), message=lambda: ask("alerts"))
        groups = wait_until(lambda: every_rule_was_evaluated(ask("rules")))
        assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}
        found = firing()
        query = f'query?query=pvtime_vcpu_wait_seconds_count{{vm="{victim}"}}'
        (waits,) = wait_until(lambda: (ask(query) or {}).get("result"))
        assert float(waits["value"][1]) > 0
    # What this host's other load steals from the VM with the quota is steal, and may be an alert too.
    ours = {each for each in found if each[1] in {str(victim), str(quiet), str(limited)}}
    assert ours - {("PvtimeNeighbourSteals", str(limited))} == expected
    assert "PvtimeStructureApart" not in {name for name, _ in found}


def every_rule_was_evaluated(found: Any) -> list[dict[str, Any]] | None:
    """Return the groups of rules once each was evaluated."""
    groups: list[dict[str, Any]] = (found or {}).get("groups", [])
    health = {rule["health"] for group in groups for rule in group["rules"]}
    return groups if len(groups) == 2 and "unknown" not in health else None
