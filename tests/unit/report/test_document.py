# SPDX-License-Identifier: GPL-2.0-or-later
"""The JSON report: round trip, strict parsing, and files written whole or not at all."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvtime.cli.command import main
from pvtime.engine.base import Outcome
from pvtime.errors import UsageError
from pvtime.report import document
from pvtime.report.model import SCHEMA, Reading, RunReport, VcpuRow
from pvtime.userland.protocol import CpuTimes

ns = st.integers(0, 2**64 - 1)
difference_ns = st.integers(1 - 2**64, 2**64 - 1)
seconds = st.floats(0, 1e6)
texts = st.text(st.characters(exclude_categories=("C", "Z")))
rows = st.builds(
    VcpuRow,
    index=st.just(0),
    ran_ns=ns,
    truth_ns=ns,
    structure_ns=st.none() | ns,
    guest=st.none() | st.builds(CpuTimes, *[ns] * 10),
    guest_error_ns=st.none() | difference_ns,
    lowest_guest_error_ns=st.none() | difference_ns,
    highest_guest_error_ns=st.none() | difference_ns,
    guest_steal_falls=ns,
    guest_steal_fell_ns=ns,
    enabled=st.booleans(),
    loads=ns,
    injected_ns=ns,
    stolen_ns=ns,
    starts=ns,
    idle_ns=ns,
    stopped_ns=ns,
    host_ns=ns,
    fault=st.none() | texts,
)


def readings(vcpus: int) -> st.SearchStrategy[tuple[VcpuRow, ...]]:
    """Return rows of ``vcpus`` vCPUs, in their order."""
    return st.tuples(*[rows] * vcpus).map(
        lambda found: tuple(replace(row, index=index) for index, row in enumerate(found))
    )


def reports_of(vcpus: int) -> st.SearchStrategy[RunReport]:
    """Return reports of machines with ``vcpus`` vCPUs."""
    return st.builds(
        RunReport,
        engine=texts,
        placement=texts,
        kernel=st.none() | texts,
        boot_seconds=st.none() | seconds,
        elapsed_seconds=seconds,
        outcome=st.sampled_from(Outcome),
        sampled_seconds=seconds,
        vcpus=readings(vcpus),
        begin=st.none() | st.builds(Reading, seconds, readings(vcpus)),
        schema=st.just(SCHEMA),
    )


reports = st.integers(1, 4).flatmap(reports_of)

REPORT = RunReport(
    engine="unicorn",
    placement="userspace",
    kernel="6.1.0-37-cloud-arm64",
    boot_seconds=1.4,
    elapsed_seconds=11.9,
    outcome=Outcome.POWER_OFF,
    sampled_seconds=11.8,
    vcpus=(
        VcpuRow(
            0,
            5_000_000_000,
            4_998_878_240,
            4_998_878_240,
            True,
            312,
            guest=CpuTimes(1, 2, 3, 4, 5, 6, 7, 4_990_000_000, 9, 10),
        ),
    ),
    begin=Reading(1.5, (VcpuRow(0, 0, 0, 0, True, 0),)),
)

ROW = asdict(REPORT.vcpus[0])
TIMES = asdict(CpuTimes(*range(10)))


@given(reports)
def test_a_report_survives_its_round_trip(report: RunReport) -> None:
    assert document.from_json(document.to_json(report)) == report


def test_every_documented_field_is_there_and_every_field_is_documented() -> None:
    text = (Path(__file__).parents[3] / "docs" / "report.md").read_text()
    fields = json.loads(document.to_json(REPORT))
    for name in [*fields, *fields["begin"], *fields["vcpus"][0], *fields["vcpus"][0]["guest"]]:
        assert f"`{name}`" in text, f"docs/report.md does not speak of {name}"


def test_unknown_fields_are_ignored_since_later_releases_may_add_some() -> None:
    assert document.from_json(json.dumps(json.loads(document.to_json(REPORT)) | {"new": 1})) == REPORT


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": SCHEMA + 1}, f"schema {SCHEMA + 1}"),
        ({"schema": True}, "schema is True, not an integer"),
        ({"engine": None}, "engine is null, not a text"),
        ({"elapsed_seconds": "1"}, "elapsed_seconds is '1', not a number"),
        ({"elapsed_seconds": True}, "elapsed_seconds is True, not a number"),
        ({"outcome": "lost"}, "outcome 'lost' is not"),
        ({"outcome": 1}, "outcome is 1, not a text"),
        ({"vcpus": {}}, "vcpus is {}, not a list"),
        ({"vcpus": ""}, "vcpus is '', not a list"),
        ({"vcpus": [1]}, "vcpus[0] is 1, not an object"),
        ({"vcpus": [ROW, ROW | {"injected_ns": None}]}, "vcpus[1].injected_ns is null, not an integer"),
        ({"vcpus": [ROW | {"ran_ns": 1.0}]}, "vcpus[0].ran_ns is 1.0, not an integer"),
        ({"vcpus": [ROW | {"enabled": 1}]}, "vcpus[0].enabled is 1, not true or false"),
        ({"vcpus": [ROW | {"fault": 1}]}, "vcpus[0].fault is 1, not a text"),
        ({"vcpus": [ROW | {"guest": 1}]}, "vcpus[0].guest is 1, not an object"),
        ({"vcpus": [ROW | {"guest": TIMES | {"idle_ns": None}}]}, "vcpus[0].guest.idle_ns is null"),
        ({"begin": {"vcpus": []}}, "begin has no field 'elapsed_seconds'"),
        ({"begin": []}, "begin is [], not an object"),
        ({"vcpus": [{}]}, "vcpus[0] has no field 'index'"),
        ({"vcpus": []}, "vcpus does not have every vCPU once"),
        ({"vcpus": [ROW | {"index": 1}]}, "vcpus does not have every vCPU once"),
        ({"vcpus": [ROW | {"index": -1}]}, "vcpus does not have every vCPU once"),
        ({"begin": {"elapsed_seconds": 1, "vcpus": []}}, "begin.vcpus does not have every vCPU once"),
        ({"vcpus": [ROW | {"ran_ns": 10**400}]}, "vcpus[0].ran_ns is beyond"),
        ({"sampled_seconds": float("nan")}, "sampled_seconds is beyond"),
        ({"elapsed_seconds": float("inf")}, "elapsed_seconds is beyond"),
    ],
)
def test_a_field_that_cannot_be_is_refused_by_name(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as refused:
        document.from_json(json.dumps(json.loads(document.to_json(REPORT)) | change))
    assert said in str(refused.value)


def test_a_report_of_somebody_else_cannot_control_the_terminal_that_prints_it(
    capsys: Any, tmp_path: Path
) -> None:
    """A kernel's name with an escape sequence was printed as it stood."""
    evil = "\x1b[2J\nstolen: 0\ud800"
    row = ROW | {"fault": evil}
    report = json.loads(document.to_json(REPORT)) | {"vcpus": [row], "kernel": evil, "engine": evil}
    (path := tmp_path / "out.json").write_text(json.dumps(report | {"placement": evil}))
    with contextlib.suppress(SystemExit):
        main(["report", str(path)])
    printed = capsys.readouterr().out
    assert "?[2J stolen: 0?" in printed
    assert all(line.isprintable() for line in printed.splitlines())


@pytest.mark.parametrize("field", ["schema", "kernel", "vcpus"])
def test_a_field_that_is_missing_is_named(field: str) -> None:
    report = json.loads(document.to_json(REPORT))
    del report[field]
    with pytest.raises(UsageError, match=f"the report has no field '{field}'"):
        document.from_json(json.dumps(report))


def test_a_figure_that_is_missing_is_not_taken_for_its_default() -> None:
    row = {name: value for name, value in ROW.items() if name != "injected_ns"}
    with pytest.raises(UsageError, match=r"vcpus\[0\] has no field 'injected_ns'"):
        document.from_json(json.dumps(json.loads(document.to_json(REPORT)) | {"vcpus": [row]}))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000])
def test_what_is_no_report_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        document.from_json(text)
