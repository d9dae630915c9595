# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime export`` with a real Prometheus, and what is shipped for it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
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
    assert json.loads(SHIPPED.joinpath("dashboard.json").read_text())["panels"]


def test_a_real_prometheus_scrapes_it_and_evaluates_its_rules(
    programs: dict[str, str], tmp_path: Path
) -> None:
    exported, port = free_port(), free_port()
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(SHIPPED / "rules.yml"), str(SHIPPED / "alerts.yml")],
        "scrape_configs": [
            {"job_name": "pvtime", "static_configs": [{"targets": [f"127.0.0.1:{exported}"]}]}
        ],
    }
    file = tmp_path / "prometheus.yml"
    file.write_text(json.dumps(config))  # JSON is YAML
    commands = [
        [sys.executable, "-m", "pvtime", "export", "--listen", f"127.0.0.1:{exported}"],
        [
            programs["prometheus"],
            f"--config.file={file}",
            f"--storage.tsdb.path={tmp_path}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
    ]
    started = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for command in commands]

    def ask(query: str) -> Any:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{query}", timeout=5) as answer:
                return json.load(answer)["data"]
        except OSError:
            return None

    try:
        wait_until(lambda: (ask("query?query=up") or {}).get("result", [{}])[0:1] not in ([], [{}]))
        wait_until(lambda: (ask('query?query=pvtime_vms{job="pvtime"}') or {}).get("result"))
        groups = wait_until(lambda: every_rule_was_evaluated(ask("rules")))
        assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}
        assert ask("alerts") == {"alerts": []}
    finally:
        for process in started:
            process.send_signal(signal.SIGTERM)
        for process in started:
            process.wait()


def every_rule_was_evaluated(found: Any) -> list[dict[str, Any]] | None:
    """Return the groups of rules once each was evaluated."""
    groups: list[dict[str, Any]] = (found or {}).get("groups", [])
    health = {rule["health"] for group in groups for rule in group["rules"]}
    return groups if len(groups) == 2 and "unknown" not in health else None
