# SPDX-License-Identifier: GPL-2.0-or-later
"""Jobs of an experiment: where they run, what they leave, and what an interruption loses; without guests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pvtime.engine.base import Outcome
from pvtime.errors import EngineError, UsageError
from pvtime.experiment.plan import Job, Plan, report_of
from pvtime.experiment.results import load_runs, plot, summarise, table, to_csv
from pvtime.experiment.runner import cpu_times, free_cpus, pending, run_jobs
from pvtime.report import document
from pvtime.report.model import RunReport, VcpuRow

PLAN = Plan(2, ["0%", "30%"], ["userspace"], ["--duration", "1"])
CPU = min(os.sched_getaffinity(0))


def stat(*busy: int, total: int = 1000) -> str:
    """Return the text of /proc/stat, of CPUs that were busy for so many ticks."""
    return "\n".join(
        [
            "cpu  1 2 3",
            *(f"cpu{cpu} {ticks} 0 0 {total - ticks} 0 0 0 0 0 0" for cpu, ticks in enumerate(busy)),
        ]
    )


def test_a_cpu_is_free_that_was_idle_while_it_was_watched() -> None:
    texts = iter([stat(0, 100, 400), stat(9, 600, 400, total=1100)])
    assert cpu_times(stat(5)) == {0: (5, 1000)}
    free, shares = free_cpus([0, 1, 2], lambda: next(texts), lambda _: None)
    assert free == [0, 2]
    assert shares[0] == 0.09


def command(body: str) -> list[str]:
    """Return a job's command."""
    return [sys.executable, "-c", body]


def test_jobs_run_pinned_and_those_that_have_a_report_not_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PLAN.keep(tmp_path)
    own = os.sched_getaffinity(0)
    body = "import os, pathlib; pathlib.Path({!r}).write_text(str(sorted(os.sched_getaffinity(0))))"
    monkeypatch.setattr(Plan, "command", lambda _plan, _job, report: command(body.format(str(report))))
    done: list[tuple[str, int, int]] = []
    report_of(tmp_path, PLAN.jobs[2]).write_text("of before")
    run_jobs(PLAN, tmp_path, [CPU], lambda job, number, total: done.append((job.name, number, total)))
    assert [number for _, number, _ in done] == [1, 2, 3]
    assert pending(PLAN, tmp_path) == []
    assert report_of(tmp_path, PLAN.jobs[0]).read_text() == f"[{CPU}]"
    assert report_of(tmp_path, PLAN.jobs[2]).read_text() == "of before"
    assert os.sched_getaffinity(0) == own
    run_jobs(PLAN, tmp_path, [CPU], lambda *_: pytest.fail("nothing is to be run"))


def test_what_a_command_in_the_guest_prints_is_kept_beside_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(1, ["0%"], ["userspace"], ["--rootfs", "/root", "--exec", "measure"])
    assert "--warm" not in plan.command(plan.jobs[0], Path("x"))
    plan.keep(tmp_path)
    body = "import pathlib; pathlib.Path({!r}).write_text(''); print('p99 5 ms')"
    monkeypatch.setattr(Plan, "command", lambda _plan, _job, report: command(body.format(str(report))))
    run_jobs(plan, tmp_path, [CPU], lambda *_: None)
    assert (tmp_path / "reports" / "0-userspace-1.out").read_text() == "p99 5 ms\n"


def test_an_interruption_ends_the_job_in_progress_without_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PLAN.keep(tmp_path)

    def interrupt(_job: Job, _number: int, _total: int) -> None:
        raise KeyboardInterrupt

    first = "import pathlib; pathlib.Path({!r}).write_text('half')"
    rest = first + "; import time; time.sleep(600)"
    monkeypatch.setattr(
        Plan,
        "command",
        lambda _plan, job, report: command((first if job == PLAN.jobs[0] else rest).format(str(report))),
    )
    with pytest.raises(KeyboardInterrupt):
        run_jobs(PLAN, tmp_path, [CPU], interrupt)
    assert [path.name for path in (tmp_path / "reports").iterdir()] == [f"{PLAN.jobs[0].name}.json"]


@pytest.mark.parametrize(("code", "error"), [(2, UsageError), (1, EngineError), (3, EngineError)])
def test_a_job_that_fails_is_named_with_its_reason(
    code: int, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PLAN.keep(tmp_path)
    body = f"import sys; print('pvtime: no such CPU', file=sys.stderr); sys.exit({code})"
    monkeypatch.setattr(Plan, "command", lambda *_: command(body))
    with pytest.raises(error, match="0-userspace-1 failed: no such CPU"):
        run_jobs(PLAN, tmp_path, [CPU], lambda *_: None)


def report(stolen_ms: int) -> str:
    """Return the report of a run with one vCPU."""
    stolen = stolen_ms * 10**6
    row = VcpuRow(0, 10**9 - stolen, stolen, stolen, True, 5, injected_ns=stolen, stolen_ns=stolen)
    return document.to_json(
        RunReport("unicorn", "userspace", None, None, 1.0, Outcome.STOPPED, 1.0, (row,), None)
    )


def test_a_point_has_the_median_of_its_runs_and_an_interval_from_six_on(tmp_path: Path) -> None:
    plan = Plan(7, ["0%", "30%"], ["userspace"], ["--duration", "1"])
    plan.keep(tmp_path)
    for job in plan.jobs:
        if job.point.steal == "30%":
            report_of(tmp_path, job).write_text(report(300 + job.number))
        elif job.number == 1:
            report_of(tmp_path, job).write_text(report(0))
    runs = load_runs(plan, tmp_path)
    none, much = summarise(plan, runs)
    assert (none.runs, none.medians["stolen"], none.intervals["stolen"]) == (1, 0, None)
    assert (much.runs, much.medians["stolen"]) == (7, 304_000)
    interval = much.intervals["stolen"]
    assert interval is not None
    assert (interval.low, interval.high) == (301_000, 307_000)
    assert table([much])[1][:4] == ["userspace", "30%", "7", "30.40 % [30.10, 30.70]"]
    assert table([much])[1][5] == "-", "the guest was not asked"
    lines = to_csv(runs).splitlines()
    assert lines[0].startswith("placement,steal,run,stolen")
    assert len(lines) == 9
    image = plot([none, much], "a <title>")
    assert "a &lt;title&gt;" in image
    assert image.count("<circle") == 2


def test_a_report_that_is_damaged_is_named(tmp_path: Path) -> None:
    PLAN.keep(tmp_path)
    report_of(tmp_path, PLAN.jobs[0]).write_text("{")
    with pytest.raises(UsageError, match=r"0-userspace-1.json: .*remove it"):
        load_runs(PLAN, tmp_path)
