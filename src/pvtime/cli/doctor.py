# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime doctor``."""

from __future__ import annotations

import json
import sys
from typing import Final

import click

from pvtime.doctor.finding import Health, HealthFinding
from pvtime.doctor.guest import examine_guest
from pvtime.doctor.host import examine_host

__all__ = ["doctor_command"]

SIGNS: Final = {Health.GOOD: ("ok", "green"), Health.BAD: ("no", "red"), Health.NEUTRAL: ("-", "default")}


@click.command("doctor", short_help="Check whether stolen time can work here")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead of sentences.")
def doctor_command(as_json: bool) -> int:
    """Check whether stolen time can work on this machine, as a host and as a guest.

    As a host: whether its KVM can give guests stolen time. As a guest: whether its kernel has found stolen
    time, and whether the count in /proc/stat moves, for which a CPU is kept busy for a second. The exit code
    is 0 if one of the two works.

    \b
    Examples:
        pvtime doctor
        pvtime lab -- pvtime doctor
    """  # noqa: D301 (click wants the character)
    host, guest = examine_host(), examine_guest()
    host_works, guest_works = _works(host), _works(guest)
    if as_json:
        result = {
            "schema": 1,
            "host": {"works": host_works, "findings": [_plain(finding) for finding in host]},
            "guest": {"works": guest_works, "findings": [_plain(finding) for finding in guest]},
        }
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
    else:
        _print(
            "as a host",
            host,
            f"Guests on this host's KVM {'can' if host_works else 'cannot'} have stolen time.",
        )
        verdict = "knows its stolen time" if guest_works else "shows no sign of knowing its stolen time"
        _print("as a guest", guest, f"This machine {verdict}.")
    return 0 if host_works or guest_works else 1


def _works(findings: list[HealthFinding]) -> bool:
    """Whether there is a good finding, and no bad one."""
    health = {finding.health for finding in findings}
    return Health.GOOD in health and Health.BAD not in health


def _plain(finding: HealthFinding) -> dict[str, str]:
    return {"name": finding.name, "health": finding.health.value, "sentence": finding.sentence}


def _print(title: str, findings: list[HealthFinding], verdict: str) -> None:
    from rich.table import Table  # late: see pvtime.report.table
    from rich.text import Text

    from pvtime.report.table import open_console

    console = open_console(sys.stdout)
    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in findings:
        sign, colour = SIGNS[finding.health]
        table.add_row(Text(sign, style=colour), finding.name, finding.sentence)
    console.print(Text(title, style="bold"))
    console.print(table)
    console.print(verdict, end="\n\n")
