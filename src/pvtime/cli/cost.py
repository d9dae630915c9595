# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime cost``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import click

from pvtime.cli.params import WholeNumber, parsed_by, seconds
from pvtime.errors import UsageError
from pvtime.lab.qemu import CPUS, require_qemu

__all__ = ["cost_command"]

ROUNDS: Final = 2000
MAX_ROUNDS: Final = 100_000
SECONDS: Final = "16"


@click.command("cost", short_help="Measure what an update of stolen time costs")
@click.option(
    "--rounds",
    type=WholeNumber(1, MAX_ROUNDS),
    metavar="N",
    default=ROUNDS,
    show_default=True,
    help="Most rounds for each kind of load; a round is a block of round trips without stolen time, and one "
    "with it.",
)
@click.option(
    "--duration",
    metavar="SECONDS",
    default=SECONDS,
    show_default=True,
    callback=parsed_by(seconds),
    help="Most seconds for all rounds together.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead of a table.")
@click.option("--lab", is_flag=True, help="Count instructions on an emulated arm64 host instead.")
@click.option(
    "--cpu", type=click.Choice(CPUS), default=CPUS[0], show_default=True, help="CPU model of the lab."
)
@click.option(
    "--markdown", metavar="FILE", help="With --lab, also write the figures and their meaning as Markdown."
)
@click.option("--plot", metavar="FILE.svg", help="With --lab, also draw the updates' instructions.")
def cost_command(
    rounds: int,
    duration: float,
    as_json: bool,
    lab: bool,
    cpu: str,
    markdown: str | None,
    plot: str | None,
) -> int:
    """Measure on this host's KVM what an update of stolen time costs, in ns.

    It is the difference between round trips of KVM_RUN (load, entry and exit of a vCPU that leaves at once)
    with stolen time and without, in turn, on one CPU: of loads that follow each other, and of loads before
    which another process had the CPU. It needs an arm64 or x86_64 host and access to /dev/kvm, and no root.

    With --lab it needs no KVM: it boots a Debian kernel in qemu-system-aarch64, counts the instructions of
    one update by part, for each way to make it, and how often guests are loaded and entered. That takes some
    minutes; --rounds and --duration do not apply.

    \b
    Examples:
        pvtime cost
        pvtime cost --lab --markdown cost.md
        taskset -c 3 pvtime cost --duration 60 --rounds 10000
        pvtime lab -- pvtime cost
    """  # noqa: D301 (click wants the character)
    if lab:
        return _lab(cpu, as_json, markdown, plot)
    if markdown or plot:
        raise UsageError("--markdown and --plot are for --lab: give that too")
    from pvtime.cost.host import measure_host
    from pvtime.cost.host_document import to_json
    from pvtime.cost.host_table import print_host_cost

    cost = measure_host(rounds, duration)
    if as_json:
        sys.stdout.write(to_json(cost))
    else:
        print_host_cost(cost, sys.stdout)
    return 0


def _lab(cpu: str, as_json: bool, markdown: str | None, plot: str | None) -> int:
    from pvtime.cost.lab_cost import measure_lab
    from pvtime.cost.lab_document import to_lab_json
    from pvtime.cost.lab_markdown import cost_page
    from pvtime.cost.lab_plot import updates_svg
    from pvtime.cost.lab_table import print_lab_cost
    from pvtime.report.image_progress import image_progress
    from pvtime.report.output_file import refuse_unwritable, write_whole

    if plot is not None and not plot.endswith(".svg"):
        raise UsageError(f"--plot {plot}: it draws SVG: give a name that ends in .svg")
    for name, what in ((markdown, "the page"), (plot, "the plot")):
        if name is not None:
            refuse_unwritable(Path(name), what)
    require_qemu()
    with image_progress(sys.stderr) as fetching:
        cost = measure_lab(cpu, lambda doing: print(f"{doing} ...", file=sys.stderr, flush=True), fetching)
    for name, draw, what in ((markdown, cost_page, "the page"), (plot, updates_svg, "the plot")):
        if name is not None:
            write_whole(Path(name), draw(cost), what)
    if as_json:
        sys.stdout.write(to_lab_json(cost))
    else:
        print_lab_cost(cost, sys.stdout)
    return 0
