# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime stat``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click

from pvtime.cli.params import parsed_by, sample_interval
from pvtime.errors import UsageError

__all__ = ["stat_command"]


@click.command("stat", short_help="Print a running machine's figures")
@click.argument("machine")
@click.option("--follow", is_flag=True, help="Print a sample every --interval and the events, until the end.")
@click.option(
    "--interval",
    callback=parsed_by(sample_interval),
    default="1",
    show_default=True,
    metavar="SECONDS",
    help="Time between two samples, with --follow.",
)
@click.option("--guest", is_flag=True, help="Ask the guest for its /proc/stat too; without --follow.")
def stat_command(machine: str, follow: bool, interval: float, guest: bool) -> None:
    """Print the figures of MACHINE as lines of JSON: the machine, and a sample of every vCPU.

    MACHINE is a name that pvtime ps lists, or the path of a --control socket. docs/report.md has the fields.

    \b
    Examples:
        pvtime stat web
        pvtime stat web --follow | jq .sample.vcpus[1].stolen_ns
    """  # noqa: D301 (click wants the character)
    from pvtime.report import stream
    from pvtime.run.control_client import ask
    from pvtime.run.control_protocol import FollowRequest, InfoRequest, MachineInfo, RunEnd, StatRequest
    from pvtime.run.runtime_dir import socket_of

    if follow and guest:
        raise UsageError("--follow prints the host's figures: leave out --guest")
    path = socket_of(machine)
    show(stream.header(asdict(ask(path, InfoRequest(), MachineInfo))))
    if follow:
        ask(path, FollowRequest(round(interval * 1e9)), RunEnd, show)
    else:
        sample: Callable[..., dict[str, Any]] = ask
        show(sample(path, StatRequest(guest), None))


def show(document: dict[str, Any]) -> None:
    """Print a line of JSON, which a reader gets at once."""
    click.echo(json.dumps(document))
