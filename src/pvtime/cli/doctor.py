# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime doctor``: whether stolen time can work here, and what is in its way."""

from __future__ import annotations

import json
import sys
from typing import Final

import click

from pvtime.doctor.finding import Finding, Health
from pvtime.doctor.guest import examine_guest
from pvtime.doctor.host import examine_host

__all__ = ["doctor_command"]

SIGNS: Final = {Health.GOOD: ("ok", "green"), Health.BAD: ("no", "red"), Health.NEUTRAL: ("-", "default")}


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead of sentences.")
def doctor_command(as_json: bool) -> int:
    """Say whether stolen time can work on this machine.

    As a host: whether guests on its KVM can have it. As a guest: whether the kernel found it, and whether
    /proc/stat moves (a CPU is kept busy for a second). Exits with 0 only if one of the two can work.
    """
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
        known = (
            "This guest knows its stolen time." if guest_works else "Nothing says that it knows stolen time."
        )
        _print("as a guest", guest, known)
    return 0 if host_works or guest_works else 1


def _works(findings: list[Finding]) -> bool:
    """Whether something speaks for it and nothing against."""
    health = {finding.health for finding in findings}
    return Health.GOOD in health and Health.BAD not in health


def _plain(finding: Finding) -> dict[str, str]:
    return {"name": finding.name, "health": finding.health.value, "sentence": finding.sentence}


def _print(title: str, findings: list[Finding], verdict: str) -> None:
    from rich.table import Table  # see pvtime.report.table for why here
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
