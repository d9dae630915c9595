# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime repeat``."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pvtime.cli.params import FILE_NAME, WholeNumber
from pvtime.errors import UsageError

if TYPE_CHECKING:
    from pvtime.experiment.plan import Job, Plan

__all__ = ["repeat_command"]


@click.command("repeat", short_help="Make a run again and again, and compare")
@click.option(
    "--runs",
    type=WholeNumber(1, 10_000),
    default=5,
    show_default=True,
    metavar="N",
    help="Runs of each point. From 6 on a median has an interval.",
)
@click.option(
    "--steal-sweep",
    default="0%",
    show_default=True,
    metavar="LIST",
    help="Steals, a point for each: 0%,1:50%, or a range with dots as in the examples.",
)
@click.option(
    "--placement-sweep",
    default="userspace",
    show_default=True,
    metavar="LIST",
    help="Placements, or all: a point for each.",
)
@click.option("--out", type=FILE_NAME, metavar="DIR", help="Directory of the reports, table, CSV and plot.")
@click.option(
    "--jobs",
    type=WholeNumber(1, 1024),
    metavar="N",
    help="Runs at a time, each pinned to a CPU. Default: one for each CPU that is free.",
)
@click.option("--list", "listed", is_flag=True, help="Print each job as a line for a shell, and run none.")
@click.option("--merge", is_flag=True, help="Join the reports of several DIRs, given as arguments, in --out.")
@click.argument("arguments", nargs=-1, metavar="-- run OPTIONS | DIR...", type=click.UNPROCESSED)
def repeat_command(
    runs: int,
    steal_sweep: str,
    placement_sweep: str,
    out: Path | None,
    jobs: int | None,
    listed: bool,
    merge: bool,
    arguments: tuple[str, ...],
) -> int:
    """Make a run of the stock guest again and again, at each point of a sweep, and compare the points.

    Every run restores the same machine, which was booted once (run --warm), and is pinned to a CPU of its
    own. Jobs whose report is in DIR are not run again: after Ctrl-C the same command continues.
    docs/experiments.md has what DIR has at the end, and how a cluster runs the jobs.

    \b
    Examples:
        pvtime repeat --runs 10 --steal-sweep 0%,10%,...,90% --out sweep -- run --vcpus 2 --duration 3
        pvtime repeat --list --runs 20 --out sweep -- run --duration 3 > jobs
        pvtime repeat --merge --out all host1 host2
    """  # noqa: D301 (click wants the character)
    from pvtime.experiment.plan import Plan, parse_placements, parse_steals
    from pvtime.experiment.plan import merge as merge_directories

    if out is None:
        raise UsageError("--out is missing: name the experiment's directory")
    if merge:
        if not arguments:
            raise UsageError("--merge needs the directories to join")
        count = merge_directories(out, [Path(argument) for argument in arguments])
        click.echo(f"{count} new reports in {out}")
        return _finish(Plan.load(out), out)
    if arguments[:1] != ("run",):
        raise UsageError("give the run behind --, such as: pvtime repeat --out DIR -- run --duration 3")
    options = list(arguments[1:])
    plan = Plan(runs, parse_steals(steal_sweep), parse_placements(placement_sweep), options)
    if not (plan.has("--duration") or plan.has("--exec")):
        raise UsageError("a run without --duration does not end: give one behind run, or --exec")
    plan.keep(out)
    if listed:
        for line in plan.lines(out):
            click.echo(line)
        return 0
    _run(plan, out, jobs)
    return _finish(plan, out)


def _run(plan: Plan, out: Path, jobs: int | None) -> None:
    """Run what is pending.

    :raises UsageError: no CPU is free.
    """
    from pvtime.experiment.runner import free_cpus, pending, run_jobs

    todo = pending(plan, out)
    if not todo:
        return
    allowed = sorted(os.sched_getaffinity(0))
    free, shares = free_cpus(allowed)
    busy = ", ".join(f"CPU {cpu} {share:.0%}" for cpu, share in shares.items() if cpu not in free)
    if busy:
        click.echo(
            f"pvtime: this host is busy ({busy}): what it takes is in the figures as natural steal", err=True
        )
    if jobs is not None:
        free = sorted(allowed, key=lambda cpu: shares[cpu])[:jobs]
        if len(free) < jobs:
            raise UsageError(
                f"--jobs {jobs} is more than the {len(allowed)} CPUs: give {len(allowed)} or less"
            )
    if not free:
        raise UsageError("no CPU is free: wait, or set the number of runs at a time with --jobs")
    click.echo(f"{len(todo)} runs, {len(free)} at a time, on CPUs {', '.join(map(str, free))}")

    def show(job: Job, done: int, total: int) -> None:
        click.echo(f"{done}/{total} {job.name}")

    try:
        run_jobs(plan, out, free, show)
    except KeyboardInterrupt:
        left, total = len(pending(plan, out)), len(plan.jobs)
        click.echo(f"pvtime: {left} of {total} runs are left: the same command continues with them", err=True)
        raise


def _finish(plan: Plan, out: Path) -> int:
    """Print the table, and write CSV and plot."""
    from pvtime.experiment.results import load_runs, plot, summarise, table, to_csv
    from pvtime.report.output_file import write_whole

    runs = load_runs(plan, out)
    points = summarise(plan, runs)
    rows = table(points)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    click.echo("\n".join(lines))
    write_whole(out / "results.csv", to_csv(runs), "the figures")
    write_whole(out / "plot.svg", plot(points, f"pvtime run {shlex.join(plan.options)}"), "the plot")
    missing = len(plan.jobs) - len(runs)
    if missing:
        click.echo(f"{missing} of {len(plan.jobs)} runs are missing", err=True)
    click.echo(f"{out / 'results.csv'}, {out / 'plot.svg'}")
    return 1 if missing else 0
