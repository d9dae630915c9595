# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime run``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from pvtime.cli.params import FILE_NAME, WholeNumber, engine_option, parse_size, parsed_by, seconds
from pvtime.cli.run_options import run_options
from pvtime.errors import ImagesError, UsageError
from pvtime.machine.gic import GicVersion
from pvtime.machine.layout import MAX_GICV2_VCPUS, MAX_VCPUS
from pvtime.run.options import DEFAULT_SHARE_SIZE, STDOUT, GuestOptions, RunOptions
from pvtime.steal.placement import PlacementName

__all__ = ["run_command"]


@click.command("run", short_help="Boot a guest and show its stolen time")
@click.option(
    "--kernel",
    type=FILE_NAME,
    metavar="FILE",
    help="arm64 Linux Image to boot. Default: the stock kernel.",
)
@click.option(
    "--initrd",
    type=FILE_NAME,
    metavar="FILE",
    help="initrd to boot with it. Default: the stock userland.",
)
@click.option(
    "--exec",
    "execute",
    metavar="COMMAND",
    help="Run COMMAND in a shell of the stock guest, print what it prints, and end with its exit code.",
)
@click.option(
    "--rootfs",
    type=FILE_NAME,
    metavar="DIR|TAR",
    help="Root file system of arm64 for --exec, such as a container's: docs/workloads.md.",
)
@click.option(
    "--share",
    type=FILE_NAME,
    metavar="DIR",
    help="Directory whose files --exec finds in /share; those that it changes or makes there come back.",
)
@click.option(
    "--share-size",
    callback=parsed_by(parse_size),
    metavar="SIZE",
    help="Size of all files in /share at most. Default: 256M.",
)
@click.option("--append", default="", metavar="TEXT", help="Append TEXT to the kernel's command line.")
@click.option(
    "--vcpus",
    type=WholeNumber(1, MAX_VCPUS),
    metavar="N",
    default=1,
    show_default=True,
    help=f"Number of vCPUs, up to {MAX_VCPUS}; on kvm up to the host's limit.",
)
@click.option(
    "--memory",
    callback=parsed_by(parse_size),
    default="512M",
    metavar="SIZE",
    show_default=True,
    help="Size of the guest's RAM.",
)
@click.option("--cpu", metavar="MODEL", help="CPU model. Default: the engine's choice.")
@engine_option
@click.option(
    "--gic",
    type=click.Choice([version.value for version in GicVersion]),
    default=GicVersion.AUTO.value,
    show_default=True,
    help=f"Interrupt controller: GICv2, which has {MAX_GICV2_VCPUS} vCPUs at most, or GICv3. auto: on the "
    "embedded engine v2 where it can be, on kvm the newest that the host has.",
)
@click.option(
    "--placement",
    type=click.Choice([name.value for name in PlacementName]),
    default=PlacementName.USERSPACE.value,
    show_default=True,
    help="Who provides the memory for stolen time.",
)
@click.option(
    "--without",
    type=WholeNumber(0, MAX_VCPUS - 1),
    multiple=True,
    metavar="VCPU",
    help="Offer no stolen time to this vCPU, counted from 0. May be repeated.",
)
@click.option(
    "--busy",
    type=WholeNumber(0),
    metavar="N",
    help="Number of vCPUs that the guest keeps busy. Default: all; none with --interactive or --exec.",
)
@click.option(
    "--boot-timeout",
    callback=parsed_by(seconds),
    metavar="SECONDS",
    help="Do not wait longer than this for userland: --duration counts from then; without it the run ends. "
    "Default: 120 with --duration, else no limit.",
)
@click.option(
    "--warm",
    is_flag=True,
    help="Boot the stock userland once, keep the guest in the cache, and start from there.",
)
@click.option("--who", is_flag=True, help="Name who stole from the vCPUs, at the end; for root.")
@run_options
def run_command(
    kernel: Path | None,
    initrd: Path | None,
    execute: str | None,
    rootfs: Path | None,
    share: Path | None,
    share_size: int | None,
    append: str,
    vcpus: int,
    memory: int,
    cpu: str | None,
    engine: str,
    gic: str,
    placement: str,
    without: tuple[int, ...],
    busy: int | None,
    boot_timeout: float | None,
    warm: bool,
    who: bool,
    options: RunOptions,
) -> int:
    """Boot a guest and show its stolen time.

    The default is a stock kernel and a userland that keeps the vCPUs busy and reports the guest's /proc/stat;
    the first run fetches them (see pvtime images). The run ends when the guest powers off, halts or has
    panicked, after --duration, or with Ctrl-C.

    \b
    Examples:
        pvtime run --vcpus 2 --duration 10
        pvtime run --interactive
        pvtime run --vcpus 2 --steal 1:4s@6 --duration 10 --report out.json
        pvtime run --steal 30% --exec 'time seq 1 100000 | tail -1'
    """  # noqa: D301 (click wants the character)
    from pvtime.run.guest_source import source_of
    from pvtime.run.run_machine import run_machine

    for name, value in (("--busy", busy), ("--boot-timeout", boot_timeout), ("--warm", warm or None)):
        if value is not None and initrd is not None:
            raise UsageError(f"{name} needs the stock userland: leave out {name} or --initrd")
    _check_execution(execute, rootfs, initrd, options, warm=warm)
    _check_share(execute, share, share_size, warm=warm)
    if execute is not None and busy is None:
        busy = 0
    if busy is not None and busy > vcpus:
        raise UsageError(f"--busy {busy} is more than --vcpus {vcpus}: give {vcpus} or less")
    guest = GuestOptions(
        kernel=kernel,
        initrd=initrd,
        rootfs=rootfs,
        share=share,
        share_size=DEFAULT_SHARE_SIZE if share_size is None else share_size,
        append=append,
        vcpus=vcpus,
        memory=memory,
        cpu=cpu,
        engine=engine,
        gic=GicVersion(gic),
        placement=PlacementName(placement),
        no_pvtime=frozenset(without),
        busy=busy,
    )
    if warm and options.interactive:
        raise UsageError("--warm starts behind the shell's first lines: leave out --warm or --interactive")
    source = source_of(guest, warm=warm)
    options = replace(options, boot_timeout=boot_timeout, execute=execute)
    try:
        if not who:
            return run_machine(source, options)
        from pvtime.cli.run_who import naming_thieves

        with naming_thieves(options):
            return run_machine(source, options)
    except ImagesError as error:
        raise ImagesError(f"{error}; or give --kernel and --initrd") from error


def _check_execution(
    execute: str | None, rootfs: Path | None, initrd: Path | None, options: RunOptions, *, warm: bool
) -> None:
    """Check the options of a command in the guest.

    :raises UsageError: they exclude each other, or others.
    """
    if rootfs is not None and execute is None:
        raise UsageError("--rootfs is for a command: give --exec, too")
    if execute is None:
        return
    if initrd is not None:
        raise UsageError("--exec needs the stock userland: leave out --exec or --initrd")
    if options.interactive or options.detach:
        raise UsageError("--exec excludes --interactive and --detach: leave one of them out")
    if STDOUT in (options.report, options.report_stream):
        raise UsageError("--exec has standard output: give the report a file")
    if rootfs is not None and warm:
        raise UsageError("--warm has no --rootfs: leave one of them out")


def _check_share(execute: str | None, share: Path | None, size: int | None, *, warm: bool) -> None:
    """Check the options of a directory that host and guest share.

    :raises UsageError: they exclude each other, or others.
    """
    if share is None:
        if size is not None:
            raise UsageError("--share-size is for --share: give both")
        return
    if execute is None:
        raise UsageError("--share is for a command: give --exec, too")
    if warm:
        raise UsageError("--warm has no --share: leave one of them out")
