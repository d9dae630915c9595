# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime lab``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pvtime.cli.params import WholeNumber
from pvtime.lab.initramfs import LabExtras, fetch
from pvtime.lab.lab import refuse_impossible, run_in_lab
from pvtime.lab.qemu import CPUS, LabOptions
from pvtime.report.image_progress import image_progress

__all__ = ["lab_command"]


@click.command(
    "lab",
    short_help="Run a command on an emulated arm64 KVM host",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.option(
    "--cpu", type=click.Choice(CPUS), default=CPUS[0], show_default=True, help="CPU model of the host."
)
@click.option(
    "--smp",
    type=WholeNumber(1, 16),
    metavar="N",
    default=LabOptions.smp,
    show_default=True,
    help="Number of CPUs, up to 16.",
)
@click.option(
    "--memory",
    type=WholeNumber(512),
    metavar="MIB",
    default=LabOptions.memory,
    show_default=True,
    help="Size of the host's RAM in MiB, 512 or more.",
)
@click.option(
    "--icount",
    is_flag=True,
    help="Derive the host's time from executed instructions, not from a clock.",
)
@click.option(
    "--module",
    is_flag=True,
    help="Load pvtime's kernel module into the host's kernel: stolen time in the hypervisor's memory.",
)
@click.option(
    "--package",
    "packages",
    multiple=True,
    metavar="NAME",
    help="Have Debian's package NAME there, and the libraries that it needs. May be repeated.",
)
@click.option(
    "--out",
    multiple=True,
    metavar="FILE",
    help="Copy FILE from the host's /root to the current directory afterwards. May be repeated.",
)
@click.argument("command", nargs=-1, required=True)
def lab_command(
    cpu: str,
    smp: int,
    memory: int,
    icount: bool,
    module: bool,
    packages: tuple[str, ...],
    out: tuple[str, ...],
    command: tuple[str, ...],
) -> int:
    """Run COMMAND on an emulated arm64 KVM host that has this very pvtime installed.

    For machines without arm64 hardware: it boots a Debian kernel in qemu-system-aarch64 and runs COMMAND
    there. The output and the exit code are those of COMMAND.

    \b
    Examples:
        pvtime lab -- pvtime doctor
        pvtime lab --out out.json -- pvtime run --engine kvm --duration 10 --report out.json
        pvtime lab --module -- pvtime scenario all --engine kvm --placement hypervisor
        pvtime lab --package qemu-system-arm --memory 3072 -- qemu-system-aarch64 --version
    """  # noqa: D301 (click wants the character)
    options = LabOptions(cpu=cpu, smp=smp, memory=memory, icount=icount)
    refuse_impossible(out, module=module)
    extras = LabExtras(programs=packages, module=module)
    with image_progress(sys.stderr) as progress:
        fetch(progress, extras)
    return run_in_lab(list(command), options=options, extras=extras, out={name: Path(name) for name in out})
