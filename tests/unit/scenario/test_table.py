# SPDX-License-Identifier: GPL-2.0-or-later
"""The table in docs/placements.md is what the scenarios show now."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from framework.own_kvm import need_x86_kvm
from pvtime.engine.registry import choose
from pvtime.scenario.catalog import SCENARIOS
from pvtime.scenario.env import ScenarioEnv
from pvtime.scenario.events import Event, Finding, Step
from pvtime.scenario.model import Scenario
from pvtime.scenario.runner import ScenarioRun, run_scenario
from pvtime.scenario.table import markdown
from pvtime.steal.placement import PlacementName

DOCS = Path(__file__).parents[3] / "docs" / "placements.md"
OWN_KVM = "| `x86` |"
BEGIN, END = "<!-- pvtime scenario table -->\n", "<!-- end -->"


@cache
def runs() -> list[ScenarioRun]:
    """Run every scenario for every placement."""
    kind, _ = choose("unicorn")
    return [
        run_scenario(
            scenario,
            placement,
            scenario.events(ScenarioEnv(kind.build, placement)),
        )
        for scenario in SCENARIOS.values()
        for placement in PlacementName
    ]


def run(placement: PlacementName, *events: Event) -> ScenarioRun:
    """Return one that was not performed."""
    scenario = Scenario("name", "shows", lambda _: iter(()))
    return ScenarioRun(scenario, placement, events, 0)


def documented() -> tuple[str, str]:
    """Return the table in the docs: the rows of the chosen engine, and those of the host's own KVM."""
    table = DOCS.read_text().partition(BEGIN)[2].partition(END)[0]
    before, found, rest = table.partition(OWN_KVM)
    return before, found + rest


def test_the_table_in_the_docs_is_what_the_scenarios_show() -> None:
    assert documented()[0] == markdown([run for run in runs() if run.scenario.runs_on is None])


def test_its_last_rows_are_what_x86_kvm_shows_here() -> None:
    need_x86_kvm()
    shown = markdown([run for run in runs() if run.scenario.runs_on is not None])
    assert documented()[1].splitlines() == shown.splitlines()[2:]


def test_no_step_shows_a_python_word_where_there_is_no_figure() -> None:
    # "CPU_OFF: None ns", of a vCPU whose structure nobody can read.
    steps = [event for run in runs() for event in run.events if isinstance(event, Step)]
    assert any("absent" in step.text for step in steps)
    wrong = [step.text for step in steps if re.search(r"\b(None|True|False)\b", step.text)]
    assert not wrong, "\n".join(wrong)


def test_what_the_docs_quote_of_the_thread_is_in_the_claims() -> None:
    quotes = re.findall(r'"([^"]+)" \((?:Price|Zyngier)\)', DOCS.read_text().partition(END)[2])
    words = " ".join(claim.words for scenario in SCENARIOS.values() for claim in scenario.claims)
    assert len(quotes) >= 10
    missing = [quote for quote in quotes if quote.replace('"', "'") not in words]
    assert not missing, "\n".join(missing)


def test_every_scenario_has_a_place_in_the_list_of_claims() -> None:
    text = DOCS.read_text()
    for name, scenario in SCENARIOS.items():
        assert not scenario.claims or f"| `{name}`" in text.partition(END)[2], name


def test_a_cell_is_what_was_seen_and_a_contradiction_says_so() -> None:
    seen = [
        run(PlacementName.GUEST, Finding("topic", "white", "white"), Finding("other", "1", "1")),
        run(PlacementName.USERSPACE, Finding("topic", "black", "white")),
    ]
    assert markdown(seen).splitlines()[2:] == [
        "| `name` | topic | - | **black** (expected: white) | white |",
        "|  | other | - | - | 1 |",
    ]
