# SPDX-License-Identifier: GPL-2.0-or-later
"""Figures of the lab from runs that were not made, as tables, JSON, a page and an image."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvtime.cost.lab_cost import (
    LabCost,
)
from pvtime.cost.lab_document import to_lab_json
from pvtime.cost.lab_frequencies import (
    EntryRate,
    WorkloadRate,
)
from pvtime.cost.lab_loads import LoadSetup
from pvtime.cost.lab_markdown import cost_page, verdicts
from pvtime.cost.lab_parts import Part
from pvtime.cost.lab_plot import COLOURS, updates_svg
from pvtime.cost.lab_steps import ExecutedInstruction, FunctionRun
from pvtime.cost.lab_table import cost_tables, markdown_table
from pvtime.cost.lab_ticks import TickCost
from pvtime.cost.lab_updates import (
    AS_MERGED,
    CACHED,
    MERGED,
    STRAIGHT,
    X86,
    GrowthPoint,
    UpdateCost,
    update_cost,
)
from pvtime.lab.qemu import LabError

NOP, RET = 0xD503_201F, 0xD65F_03C0


def update(name: str, instructions: int) -> UpdateCost:
    """Return a cost whose instructions are all the rest."""
    parts = {**dict.fromkeys(Part, 0), Part.REST: instructions}
    return UpdateCost(name, MERGED, (instructions,), parts, {MERGED: instructions}, {0: (RET, 1)})


COST = LabCost(
    kernel="6.1.0-1-cloud-arm64 #1 SMP <b>",
    qemu="7.2",
    cpu="neoverse-n1",
    date="2026-11-26",
    updates=[update(AS_MERGED, 256), update(STRAIGHT, 14), update(CACHED, 142), update(X86, 222)],
    growth=[GrowthPoint("vcpus", 512, (256, 257))],
    ticks=[TickCost(True, (168,), (72,), {"a": 168}), TickCost(False, (111,), (), {"a": 111})],
    rates=[
        WorkloadRate("compute", 1, 0.4, 20, 260, 2, 270, (1, 1, 1)),
        WorkloadRate("compute", 4, 0.4, 267, 267, 2, 270, (1, 1, 1)),
        WorkloadRate("hypercalls", 1, 0.1, 48, 454336, 2, 460000, (1, 1, 1)),
        WorkloadRate("MMIO", 1, 0.1, 37671, 37671, 37671, 39000, (1, 1, 1)),
    ],
    entries=[EntryRate(STRAIGHT, "hypercalls", 1000, 1000)],
)


def run(*words: int) -> FunctionRun:
    """Return a call of KVM's update."""
    return FunctionRun(tuple(ExecutedInstruction(MERGED, 4 * i, word) for i, word in enumerate(words)))


def test_an_update_costs_what_it_costs_most_often() -> None:
    cost = update_cost("it", [run(NOP, RET), run(NOP, NOP, NOP, RET), run(NOP, RET)])
    assert (cost.instructions, cost.calls) == (2, (2, 4, 2))
    assert cost.listing == {0: (NOP, 1), 4: (RET, 1)}


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_the_parts_are_those_of_a_call_that_was_seen(lengths: list[int]) -> None:
    cost = update_cost("it", [run(*[NOP] * length) for length in lengths])
    assert cost.instructions in lengths
    assert sum(cost.parts.values()) == sum(cost.functions.values()) == cost.instructions


def test_no_update_at_any_load_is_an_error() -> None:
    with pytest.raises(LabError, match="no update was made"):
        update_cost("it", [])


def test_every_figure_is_in_the_document() -> None:
    document = json.loads(to_lab_json(COST))
    assert [each["instructions"] for each in document["updates"]] == [256, 14, 142, 222]
    assert document["growth"] == [{"axis": "vcpus", "value": 512, "calls": [256, 257]}]
    assert document["rates"][2]["entries_per_s"] == 454336
    assert document["ticks"][1] == {
        "stolen_time": False,
        "accounted": [111],
        "stolen": [],
        "functions": {"a": 111},
    }


def test_every_row_has_a_cell_for_each_heading() -> None:
    for table in cost_tables(COST):
        assert table.rows
        assert {len(row) for row in table.rows} == {len(table.headings)}
        assert markdown_table(table).count("\n") == len(table.rows) + 2


def test_every_claim_has_a_verdict_with_its_figures() -> None:
    found = dict(verdicts(COST))
    assert len(found) == 5
    text = " ".join(found.values())
    for figure in ("256", "14", "142", "222", "454336", "37671", "23.3 %", "0.014 %", "1.9 %"):
        assert figure in text


def test_what_was_not_measured_has_no_verdict_and_says_why() -> None:
    cost = replace(COST, updates=COST.updates[:1], absent={"the module's updates": "no compiler"})
    assert len(verdicts(cost)) == 3
    page = cost_page(cost)
    assert "Not measured: the module's updates: no compiler" in page
    assert "{" not in page.replace("{:", "")


def test_the_image_is_well_formed_and_shows_every_update() -> None:
    image = ET.fromstring(updates_svg(COST))
    texts = [element.text for element in image.iter() if element.tag.endswith("text")]
    assert {AS_MERGED, STRAIGHT, CACHED, X86, "256", "222"} <= set(texts)
    assert set(COLOURS) == set(Part)


def test_a_setup_survives_the_way_into_the_lab() -> None:
    setup = LoadSetup(vcpus=8, placement="guest", method="kvm")
    assert LoadSetup.decode(setup.encode()) == setup


def test_the_page_in_docs_is_one_that_the_command_has_written() -> None:
    page = (Path(__file__).parents[3] / "docs" / "cost.md").read_text()
    template = (resources.files("pvtime.cost") / "cost_page.md").read_text()
    at = 0
    for text in re.split(r"{\w+}", template):
        assert text in page[at:], "write it again: pvtime cost --lab --markdown docs/cost.md"
        at = page.index(text, at) + len(text)
