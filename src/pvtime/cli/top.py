# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime top``."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from pvtime.cli.params import WholeNumber, parsed_by, seconds
from pvtime.errors import UsageError

if TYPE_CHECKING:
    from pvtime.watch.sampler import HostSample, HostSampler

__all__ = ["top_command"]

HEAD_LINES = 6
"""Lines of the live view that are not VMs: its title, the table's head, the keys."""
NO_VMS = "no VM is seen on this host: no process has vCPUs of KVM, and none is a VMM that is known by name"
ESCAPES = {"\x1b[A": "up", "\x1b[B": "down", "\x1bOA": "up", "\x1bOB": "down"}


@click.command("top", short_help="Show the stolen time of every VM on this host")
@click.option(
    "--interval",
    callback=parsed_by(seconds),
    default="1",
    show_default=True,
    metavar="SECONDS",
    help="Time between two samples.",
)
@click.option("--count", type=WholeNumber(1), metavar="N", help="End after N samples.")
@click.option("--once", is_flag=True, help="Print one table, of one interval, and end.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each sample.")
@click.option("--fold", is_flag=True, help="Begin with one line for each VM.")
def top_command(interval: float, count: int | None, once: bool, as_json: bool, fold: bool) -> int:
    """Show for every vCPU on this host, whoever runs it, the time that it ran and that was stolen from it.

    It finds the VMs of QEMU (libvirt's too), Firecracker, cloud-hypervisor, crosvm, kvmtool and pvtime, and
    any process that has vCPUs of KVM. Stolen is the time for which a vCPU's thread was runnable and waited
    for a CPU. It needs no root; without it, VMs of other users are found by the names of their threads.

    Keys: q ends; s sorts by stolen, ran or name; f folds all VMs; j, k and the arrows choose a VM, and Enter
    opens or folds it; g shows the guests' own figures: pvtime's machines are asked, and QEMU's monitors and
    guest agents where their sockets are named on its command line.

    \b
    Examples:
        pvtime top
        pvtime top --once
        pvtime top --json --interval 10 > samples.json
    """  # noqa: D301 (click wants the character)
    from pvtime.host.schedstat import allow_many_files, require_schedstat
    from pvtime.report.views import is_terminal
    from pvtime.watch.sampler import HostSampler

    if once and count is not None:
        raise UsageError("--once and --count exclude each other: --once is --count 1")
    require_schedstat()
    allow_many_files()
    with contextlib.closing(HostSampler()) as sampler:
        sampler.sample()
        if not as_json and not once and is_terminal(sys.stdout):
            _live(sampler, interval, count, fold)
        else:
            _print_all(sampler, interval, 1 if once else count, as_json, fold)
    return 0


def _print_all(sampler: HostSampler, interval: float, count: int | None, as_json: bool, fold: bool) -> None:
    from pvtime.watch.guests import GuestErrors, ask_guests
    from pvtime.watch.own_machines import ask_own_machines
    from pvtime.watch.top_view import TopState, sample_to_json

    errors = GuestErrors()
    done = 0
    due = time.monotonic()
    while count is None or done < count:
        due = max(due + interval, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
        sample = sampler.sample()
        done += 1
        if as_json:
            own = ask_own_machines()
            guests = errors.add(ask_guests([vm.vm for vm in sample.vms], own))
            sys.stdout.write(sample_to_json(sample, own, guests) + "\n")
            sys.stdout.flush()
        else:
            _print(sample, TopState(folded=fold))


def _print(sample: HostSample, state: object) -> None:
    from pvtime.report.table import open_console
    from pvtime.watch.guests import ask_guests
    from pvtime.watch.own_machines import ask_own_machines
    from pvtime.watch.top_view import TopState, guest_lines, own_sentences, top_table

    assert isinstance(state, TopState)
    console = open_console(sys.stdout)
    console.print(top_table(sample, state) if sample.vms else NO_VMS, soft_wrap=not sample.vms)
    own = ask_own_machines()
    guests = guest_lines(ask_guests([vm.vm for vm in sample.vms], own))
    for sentence in (*sample.missing, *own_sentences(own), *guests):
        console.print(sentence, soft_wrap=True)


def _live(sampler: HostSampler, interval: float, count: int | None, fold: bool) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from pvtime.report.table import open_console
    from pvtime.watch.guests import GuestPoller
    from pvtime.watch.top_view import TopState, chosen_guest, top_table

    console = open_console(sys.stdout)
    state = TopState(folded=fold)

    def drawing(sample: HostSample) -> Group:
        vms, vcpus = len(sample.vms), sum(len(vm.vcpus) for vm in sample.vms)
        counts = f"{vms} VM{'s' * (vms != 1)}, {vcpus} vCPU{'s' * (vcpus != 1)}"
        title = f"pvtime top: {counts}; per cent of {sample.elapsed_ns / 1e9:.2f} s"
        guests = poller.answers()
        second = chosen_guest(sample, state, guests) if state.guests else " ".join(sample.missing)
        lines = [Text(title, style="bold", overflow="ellipsis", no_wrap=True), Text(second)]
        wrapped = len(lines[1].wrap(console, console.width)) - 1 if second else 0
        rows = max(1, console.height - HEAD_LINES - wrapped)
        body = top_table(sample, state, rows, guests) if vms else Text(NO_VMS)
        keys = f"q end  s sort ({state.sort})  f fold all  j k choose  Enter open or fold  g guests"
        return Group(*lines, body, Text(keys, style="dim", no_wrap=True))

    def ask() -> None:
        poller.request([vm.vm for vm in sample.vms])

    sample = sampler.sample()
    shown = 0
    with (
        contextlib.closing(GuestPoller()) as poller,
        _keys() as pressed,
        Live(drawing(sample), console=console, screen=True, auto_refresh=False) as live,
    ):
        due = time.monotonic() + interval
        while count is None or shown < count:
            for key in pressed(max(0.0, due - time.monotonic())):
                if not state.press(key, sample):
                    return
                if state.guests:
                    ask()
            if time.monotonic() >= due:
                sample = sampler.sample()
                due, shown = time.monotonic() + interval, shown + 1
                if state.guests:
                    ask()
            live.update(drawing(sample), refresh=True)


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], list[str]]]:
    """Read keys without their echo during a ``with`` block; yield a function that waits for some.

    Where standard input is no terminal, it only waits.
    """
    if not sys.stdin.isatty():
        yield _wait
        return
    import termios
    import tty

    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)

    def pressed(timeout: float) -> list[str]:
        if not select.select([fd], [], [], timeout)[0]:
            return []
        text = os.read(fd, 64).decode("utf-8", "replace")
        return [ESCAPES[text]] if text in ESCAPES else list(text) if text else ["q"]

    try:
        tty.setcbreak(fd)
        yield pressed
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _wait(timeout: float) -> list[str]:
    time.sleep(timeout)
    return []
