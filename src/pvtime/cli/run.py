# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime run``: its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pvtime.cli.params import engine_option, size
from pvtime.cli.showing import Showing, showing
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
@engine_option
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
    "--busy",
    type=click.IntRange(min=0),
    metavar="N",
    help="vCPUs that the stock userland keeps busy. Default: all; none with --interactive.",
)
@showing
def run_command(
    kernel: Path | None,
    initrd: Path | None,
    append: str,
    vcpus: int,
    memory: int,
    cpu: str | None,
    engine: str,
    placement: str,
    without: tuple[int, ...],
    busy: int | None,
    **shown: Any,
) -> int:
    """Boot a guest and show its stolen time.

    Without --kernel and --initrd it boots the stock images (see pvtime images), whose userland keeps the
    vCPUs busy and tells its /proc/stat. Ends when the guest powers off, after --duration, or by Ctrl-C.
    """
    from pvtime.run.execute import execute
    from pvtime.run.guest import Wishes
    from pvtime.run.source import Booting

    how = Showing(**shown)
    run = how.run()
    if busy is not None and initrd is not None:
        raise UsageError("--busy is for the stock userland: leave it out, or --initrd")
    booting = Booting(
        wishes=Wishes(kernel, initrd, append, vcpus, busy, how.interactive),
        memory=memory,
        cpu=cpu,
        engine=engine,
        options=how.options,
        placement=PlacementName(placement),
        no_pvtime=frozenset(without),
        steal=how.schedule(),
    )
    return execute(run, booting)
