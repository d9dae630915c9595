# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime who``."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pvtime.cli.params import FILE_NAME, MAX_SECONDS, parsed_by, seconds
from pvtime.errors import UsageError

if TYPE_CHECKING:
    from pvtime.host.vms import HostVm, VmFinder

__all__ = ["chosen_vms", "who_command"]

POLL_S = 0.1
MOST_NAMED = 8
"""VMs that a message lists."""
PIECES = 500_000
"""Most that --trace keeps, for about 100 MB."""


@click.command("who", short_help="Name who stole from a VM's vCPUs")
@click.option(
    "--duration",
    callback=parsed_by(seconds),
    default="10",
    show_default=True,
    metavar="SECONDS",
    help="Trace for SECONDS; Ctrl-C ends it earlier.",
)
@click.option(
    "--trace", type=FILE_NAME, metavar="FILE", help="Write every run and wait to FILE, for Perfetto."
)
@click.option("--until-end", is_flag=True, help="Trace until VM ends, however long that is.")
@click.option("--wait", is_flag=True, help="Wait until VM has started.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead of tables.")
@click.argument("vm", required=False)
def who_command(
    duration: float, trace: Path | None, until_end: bool, wait: bool, as_json: bool, vm: str | None
) -> int:
    """Attribute every nanosecond that was stolen from the vCPUs of VM, or of all VMs on this host.

    Which thread of which process or VM ran on the CPU that a vCPU waited for? Or was it the VM's own quota,
    one of its other vCPUs, its VMM? VM is a name or a process's number, as pvtime top shows it. It traces the
    scheduler and needs root, or CAP_PERFMON.

    \b
    Examples:
        pvtime who
        pvtime who qemu:web1 --duration 30
        pvtime who 4711 --trace web1.json
        pvtime who web1 --wait --until-end
    """  # noqa: D301 (click wants the character)
    from pvtime.host.schedstat import allow_many_files, require_schedstat
    from pvtime.host.vms import VmFinder
    from pvtime.report.output_file import refuse_unwritable, write_whole
    from pvtime.report.waiting import waiting
    from pvtime.watch.perfetto import to_perfetto
    from pvtime.watch.told import untold_sentences
    from pvtime.watch.who import WhoSession, check_tracing
    from pvtime.watch.who_view import print_who, who_to_json

    for option, given in (("--until-end", until_end), ("--wait", wait)):
        if given and vm is None:
            raise UsageError(f"{option} needs the name of a VM: give it, or leave out {option}")
    if trace is not None:
        refuse_unwritable(trace, "the trace")
    require_schedstat()
    check_tracing()
    allow_many_files()
    finder = VmFinder()
    with _interruptible() as stopped:
        if wait:
            _wait_for(finder, vm, stopped)
        every = finder.find()
        chosen = chosen_vms(every, vm)
        untold = untold_sentences(chosen)
        length = MAX_SECONDS if until_end else duration
        what = "tracing until the VM ends" if until_end else f"tracing for {duration:g} s"
        with (
            WhoSession(chosen, every, PIECES if trace is not None else 0) as session,
            waiting(sys.stderr, what),
        ):
            result = session.run(length, lambda: stopped() or (until_end and session.all_ended()))
    if trace is not None:
        write_whole(trace, to_perfetto(result), "the trace")
    if as_json:
        sys.stdout.write(who_to_json(result, untold))
    else:
        print_who(result, sys.stdout, untold)
    return 0


def _wait_for(finder: VmFinder, name: str | None, stopped: Callable[[], bool]) -> None:
    """Wait until there is a VM of a name, and each of its vCPUs has a thread."""
    while not stopped():
        found = [vm for vm in finder.find() if name in (vm.name, vm.label, str(vm.pid))]
        if found and all(vcpu.tid is not None for vm in found for vcpu in vm.vcpus):
            return
        time.sleep(POLL_S)


def chosen_vms(every: Sequence[HostVm], name: str | None) -> list[HostVm]:
    """Return the VMs of a name, or all.

    :raises UsageError: there is none, or more than one of that name.
    """
    found = [vm for vm in every if name is None or name in (vm.name, vm.label, str(vm.pid))]
    if not found:
        raise UsageError(_none_found(every, name))
    if name is not None and len(found) > 1:
        pids = " or ".join(str(vm.pid) for vm in found)
        raise UsageError(f"{len(found)} VMs have the name {name!r}: give the number of its process: {pids}")
    return found


def _none_found(every: Sequence[HostVm], name: str | None) -> str:
    """Return what there is instead of the VM."""
    from pvtime.watch.sampler import WITHOUT_ROOT

    hidden = f"; {WITHOUT_ROOT}" if os.geteuid() else ""
    if not every:
        return (
            "no VM is seen on this host: start one first, or give pvtime who its name and --wait "
            f"before it starts{hidden}"
        )
    what = f"process {name} runs no VM" if name and name.isdecimal() else f"no VM has the name {name!r}"
    labels = [vm.label for vm in every]
    more = f" and {len(labels) - MOST_NAMED} more" if len(labels) > MOST_NAMED else ""
    return f"{what}: this host has {', '.join(labels[:MOST_NAMED])}{more}{hidden}"


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Have SIGINT and SIGTERM end the tracing early during a ``with`` block; yield whether one came."""
    came: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, _frame: came.append(number)) for number in signals]
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
