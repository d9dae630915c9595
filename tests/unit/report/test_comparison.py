# SPDX-License-Identifier: GPL-2.0-or-later
"""Two reports beside each other, and one printed again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pvtime.cli.command import main
from pvtime.engine.base import Outcome
from pvtime.report import document
from pvtime.report.comparison import compare
from pvtime.report.model import Reading, RunReport, VcpuRow

SECOND = 10**9


def report(stolen_ns: int, **changes: int) -> RunReport:
    """Return the report of one vCPU that was there for 10 s."""
    row = VcpuRow(0, 10 * SECOND - stolen_ns, stolen_ns, stolen_ns, True, 5, stolen_ns=stolen_ns)
    row = replace(row, **changes)  # type: ignore[arg-type]
    return RunReport("unicorn", "userspace", "6.1.0", 1.5, 10.0, Outcome.STOPPED, 10.0, (row,), None)


def beyond(first: RunReport, second: RunReport) -> dict[str, bool | None]:
    """Return what is beyond the errors, by name."""
    return {compared.name: compared.beyond for compared in compare(first, second)}


def test_a_difference_of_more_than_both_errors_is_beyond_them() -> None:
    # A tick of each run is 0.1 per cent of 10 s.
    within, more = report(3 * SECOND + 19_000_000), report(3 * SECOND + 21_000_000)
    assert not beyond(report(3 * SECOND), within)["vCPU 0 stolen"]
    found = beyond(report(3 * SECOND), more)
    assert found["vCPU 0 stolen"]
    assert found["vCPU 0 ran"]
    assert not found["vCPU 0 idle"]
    assert found["vCPU 0 guest steal"] is None, "it was not asked"
    assert found["boot"] is None


def test_a_structure_that_is_wrong_by_a_nanosecond_is_beyond() -> None:
    assert beyond(report(5), report(5, structure_ns=6))["vCPU 0 structure - truth"]
    assert not beyond(report(5), report(5))["vCPU 0 structure - truth"]


def test_the_time_before_userland_is_left_out_where_both_know_it() -> None:
    begun = Reading(2.0, (VcpuRow(0, SECOND, SECOND, SECOND, True, 1, stolen_ns=SECOND),))
    later = replace(report(5 * SECOND), begin=begun)

    def stolen(other: RunReport) -> float | None:
        return {compared.name: compared.first for compared in compare(later, other)}["vCPU 0 stolen"]

    assert stolen(later) == 50.0, "4 s of 8 s"
    assert stolen(report(SECOND)) == 50.0, "5 s of 10 s"


def test_the_command_prints_one_again_and_two_beside_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = str(tmp_path / "a.json"), str(tmp_path / "b.json")
    Path(a).write_text(document.to_json(report(3 * SECOND)))
    Path(b).write_text(document.to_json(report(4 * SECOND)))
    assert main(["report", a]) == 0
    out = capsys.readouterr().out
    assert "stolen time per vCPU" in out
    assert "stopped after 10.00 s" in out
    assert main(["report", a, b]) == 0
    out = capsys.readouterr().out
    (line,) = (line for line in out.splitlines() if "vCPU 0 stolen" in line)
    assert line.split()[3:] == ["30.00", "%", "40.00", "%", "+10.00", "%", "0.20", "%", "yes"]
    for arguments in (["report", str(tmp_path)], ["report", a, b, "--html", b], ["report", __file__]):
        assert main(arguments) == 2
        assert capsys.readouterr().err.count("\n") == 1
