# SPDX-License-Identifier: GPL-2.0-or-later
"""What is shipped for ``pvtime export``, as Prometheus, Grafana, systemd and Kubernetes see it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from framework.prometheus import prometheus_programs
from pvtime.watch.exporter import COUNTERS, GAUGES

SHIPPED = Path(__file__).parents[2] / "contrib" / "export"


@pytest.fixture
def programs() -> dict[str, str]:
    """Return the paths of Prometheus' programs."""
    return prometheus_programs()


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
