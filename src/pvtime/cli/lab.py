# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime lab``: run a command in an emulated arm64 KVM host."""

from __future__ import annotations

import sys

import click

from pvtime.lab.lab import run_in_lab
from pvtime.lab.qemu import CPUS, Settings
from pvtime.lab.userland import fetch
from pvtime.report.progress import shown

__all__ = ["lab_command"]


@click.command("lab", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--cpu", type=click.Choice(CPUS), default=CPUS[0], show_default=True, help="CPU model.")
@click.option("--smp", type=int, default=Settings.smp, show_default=True, help="How many CPUs it has.")
@click.option("--memory", type=int, default=Settings.memory, show_default=True, help="Its RAM, in MiB.")
@click.option("--icount", is_flag=True, help="Its time counts instructions, not this host's time.")
@click.option("--out", multiple=True, metavar="FILE", help="Bring this file back from its /root. Repeatable.")
@click.argument("command", nargs=-1, required=True)
def lab_command(
    cpu: str, smp: int, memory: int, icount: bool, out: tuple[str, ...], command: tuple[str, ...]
) -> int:
    """Run COMMAND on an arm64 KVM host in a box, with this very pvtime in it.

    For machines without arm64 hardware: boots a Debian kernel in qemu-system-aarch64 and runs COMMAND there.
    Its output and exit code are the command's:

    \b
        pvtime lab -- pvtime doctor
        pvtime lab --out out.json -- pvtime run --engine kvm --duration 10 --report out.json
    """  # noqa: D301 (click wants the character)
    settings = Settings(cpu=cpu, smp=smp, memory=memory, icount=icount)
    with shown(sys.stderr) as progress:
        fetch(progress)
    return run_in_lab(list(command), settings=settings, out=out)
