# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime doctor``."""

from __future__ import annotations

import json
import platform
import sys
from typing import Final

import click

from pvtime.doctor.finding import Health, HealthFinding
from pvtime.doctor.guest import ARM64, examine_guest
from pvtime.doctor.host import examine_host

__all__ = ["doctor_command"]

VM_SECONDS: Final = 5.0
SIGNS: Final = {Health.GOOD: ("ok", "green"), Health.BAD: ("no", "red"), Health.NEUTRAL: ("-", "default")}


@click.command("doctor", short_help="Check whether stolen time can work here")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead of sentences.")
@click.option("--vm", metavar="VM", help="Say what a VM on this host suffers from, whoever runs it.")
def doctor_command(as_json: bool, vm: str | None) -> int:
    """Check whether stolen time can work on this machine, as a host and as a guest.

    As a host: whether its KVM can give guests stolen time. As a guest: whether its kernel has found stolen
    time, and whether the count in /proc/stat moves, for which a CPU is kept busy for a second. The exit code
    is 0 if one of the two works.

    With --vm, it traces a VM on this host for 5 s, as root, and says in a sentence or two what became of its
    time: pvtime who has the figures.

    \b
    Examples:
        pvtime doctor
        pvtime doctor --vm web1
        pvtime lab -- pvtime doctor
    """  # noqa: D301 (click wants the character)
    if vm is not None:
        return _examine_vm(vm, as_json)
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
        _print("as a guest", guest, f"This machine {_guest_verdict(guest_works)}.")
    return 0 if host_works or guest_works else 1


def _guest_verdict(works: bool) -> str:
    if works:
        return "knows its stolen time"
    if platform.machine() != ARM64:
        return "is not an arm64 guest, so that its stolen time is not judged"
    return "shows no sign of knowing its stolen time"


def _examine_vm(name: str, as_json: bool) -> int:
    from pvtime.cli.who import chosen_vms
    from pvtime.host.schedstat import allow_many_files, require_schedstat
    from pvtime.host.vms import VmFinder
    from pvtime.watch.guests import ask_guests
    from pvtime.watch.own_machines import ask_own_machines
    from pvtime.watch.told import guest_sentences, told_sentences
    from pvtime.watch.verdict import verdicts
    from pvtime.watch.who import WhoSession

    require_schedstat()
    allow_many_files()
    every = VmFinder().find()
    chosen = chosen_vms(every, name)
    before = ask_guests(chosen)
    with WhoSession(chosen, every) as session:
        (found,) = session.run(VM_SECONDS).vms
    pid = found.vm.pid
    if found.vm.vmm == "pvtime":
        told = told_sentences([vcpu for vcpu in ask_own_machines() if vcpu.pid == pid])
    else:
        told = guest_sentences(before[pid], ask_guests(chosen)[pid])
    sentences = [*verdicts(found), *told]
    if as_json:
        sys.stdout.write(
            json.dumps({"schema": 1, "vm": found.vm.label, "verdicts": sentences}, indent=2) + "\n"
        )
    else:
        for sentence in sentences:
            print(f"{found.vm.label}: {sentence}")
    return 0


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
