# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime run``: its options."""

from __future__ import annotations

from pathlib import Path

import click

from pvtime.cli.engines import AUTO, ENGINES
from pvtime.cli.params import key_values, seconds, size
from pvtime.errors import UsageError
from pvtime.machine.layout import MAX_VCPUS
from pvtime.steal.placement import PlacementName

__all__ = ["run_command"]


@click.command("run")
@click.option(
    "--kernel", type=click.Path(path_type=Path), help="arm64 Linux Image. Default: the stock kernel."
)
@click.option("--initrd", type=click.Path(path_type=Path), help="Its initrd. Default: the stock userland.")
@click.option("--append", default="", metavar="TEXT", help="More words for the kernel's command line.")
@click.option(
    "--vcpus", type=click.IntRange(1, MAX_VCPUS), default=1, show_default=True, help="How many vCPUs."
)
@click.option(
    "--memory", callback=size, default="512M", metavar="SIZE", show_default=True, help="The guest's RAM."
)
@click.option("--cpu", metavar="MODEL", help="CPU model. Default: the engine's choice.")
@click.option(
    "--engine",
    type=click.Choice([AUTO, *(kind.name for kind in ENGINES)]),
    default=AUTO,
    show_default=True,
    help="What executes the vCPUs.",
)
@click.option(
    "--engine-option",
    "options",
    multiple=True,
    callback=key_values,
    metavar="KEY=VALUE",
    help="For the engine, such as internals=off.",
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
    type=click.IntRange(0, MAX_VCPUS - 1),
    multiple=True,
    metavar="VCPU",
    help="A vCPU that gets no stolen time; may be repeated.",
)
@click.option(
    "--steal",
    multiple=True,
    metavar="[VCPUS:]AMOUNT[/PERIOD][@FROM[-TO]]",
    help="Keep vCPUs from running: 30% of the time; 1:200ms/1s@5-10: vCPU 1 in seconds 5 to 10; 4s@10: once. "
    "May be repeated; @FILE has one a line. See docs/steal.md.",
)
@click.option(
    "--duration", callback=seconds, metavar="SECONDS", help="End after this long, counted from userland on."
)
@click.option(
    "--save-at",
    type=(click.FloatRange(min=0, min_open=True), click.Path(path_type=Path)),
    metavar="SECONDS DIRECTORY",
    help="Save the machine to a new directory and end, that long after userland came up.",
)
@click.option(
    "--control",
    type=click.Path(path_type=Path),
    metavar="SOCKET",
    help="Listen here for pvtime save and pvtime migrate.",
)
@click.option(
    "--report", type=click.Path(allow_dash=True, path_type=Path), help="Write JSON here; - is stdout."
)
@click.option("--quiet", is_flag=True, help="Print the last table only; with --report -, only the report.")
@click.option("--interactive", is_flag=True, help="The guest's console on this terminal.")
@click.option(
    "--busy",
    type=click.IntRange(min=0),
    metavar="N",
    help="vCPUs that the stock userland keeps busy. Default: all; none with --interactive.",
)
def run_command(
    kernel: Path | None,
    initrd: Path | None,
    append: str,
    vcpus: int,
    memory: int,
    cpu: str | None,
    engine: str,
    options: dict[str, str],
    placement: str,
    without: tuple[int, ...],
    steal: tuple[str, ...],
    duration: float | None,
    save_at: tuple[float, Path] | None,
    control: Path | None,
    report: Path | None,
    quiet: bool,
    interactive: bool,
    busy: int | None,
) -> int:
    """Boot a guest and show its stolen time.

    Without --kernel and --initrd it boots the stock images (see pvtime images), whose userland keeps the
    vCPUs busy and tells its /proc/stat. Ends when the guest powers off, after --duration, or by Ctrl-C.
    """
    from pvtime.cli.guest import Wishes
    from pvtime.cli.running import Run, execute
    from pvtime.cli.source import Booting
    from pvtime.cli.stealing import schedule

    if quiet and interactive:
        raise UsageError("--quiet and --interactive do not go together: leave one out")
    if busy is not None and initrd is not None:
        raise UsageError("--busy is for the stock userland: leave it out, or --initrd")
    booting = Booting(
        wishes=Wishes(kernel, initrd, append, vcpus, busy, interactive),
        memory=memory,
        cpu=cpu,
        engine=engine,
        options=options,
        placement=PlacementName(placement),
        without=frozenset(without),
        steal=schedule(steal),
    )
    run = Run(
        duration=duration, report=report, quiet=quiet, interactive=interactive, control=control, save=save_at
    )
    return execute(run, booting)
