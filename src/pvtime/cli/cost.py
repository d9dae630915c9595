# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime cost``."""

from __future__ import annotations

import sys
from typing import Final

import click

from pvtime.cli.params import WholeNumber, parsed_by, seconds

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
def cost_command(rounds: int, duration: float, as_json: bool) -> int:
    """Measure on this host's KVM what an update of stolen time costs, in ns.

    It is the difference between round trips of KVM_RUN (load, entry and exit of a vCPU that leaves at once)
    with stolen time and without, in turn, on one CPU: of loads that follow each other, and of loads before
    which another process had the CPU. It needs an arm64 or x86_64 host and access to /dev/kvm, and no root.

    \b
    Examples:
        pvtime cost
        taskset -c 3 pvtime cost --duration 60 --rounds 10000
        pvtime lab -- pvtime cost
    """  # noqa: D301 (click wants the character)
    from pvtime.cost.host import measure_host
    from pvtime.cost.host_document import to_json
    from pvtime.cost.host_table import print_host_cost

    cost = measure_host(rounds, duration)
    if as_json:
        sys.stdout.write(to_json(cost))
    else:
        print_host_cost(cost, sys.stdout)
    return 0
