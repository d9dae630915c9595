# SPDX-License-Identifier: GPL-2.0-or-later
"""The course of a judgement: start a VMM, or make a machine of pvtime's own, and judge it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pvtime.engine.base import BREAK, Engine
from pvtime.engine.registry import choose
from pvtime.inject.schedule import Schedule
from pvtime.judge.image_file import judge_image, judge_kernel
from pvtime.judge.monitor import PVTIME
from pvtime.judge.own_machine import OwnMachine
from pvtime.judge.session import Judgement, LifeEvent, judge
from pvtime.judge.vmm import Vmm
from pvtime.machine.machine import Machine, MachineConfig
from pvtime.steal.placement import PlacementName

__all__ = ["Wanted", "judge_own", "judge_vmm"]

LATE_S: Final = {False: 2, True: 6}
"""Time until pvtime run shows its guest's console on an emulated host, and until it takes requests there."""
TOLD_S: Final = 10
"""Seconds of load, if nothing else is wanted: an emulated host takes that long to have it take a request."""
MEMORY: Final = 256 << 20
"""Bytes of a machine on the embedded engine."""
STOLEN: Final = "30%"
"""Stolen from a machine on the embedded engine."""


@dataclass(frozen=True)
class Wanted:
    """What is wanted of a judgement."""

    limit_s: float
    image_options: str
    """The image's command line."""
    events: frozenset[LifeEvent]
    chosen: frozenset[str]
    """The checks; none: all."""


def judge_vmm(command: Sequence[str], name: str, wanted: Wanted) -> Judgement:
    """Judge the VMM that a command starts; ``{image}`` in it stands for the image's path.

    :param name: the VMM's, for the results.
    :raises PvtimeError: it cannot be started, or its vCPUs not be stolen from.
    """
    with tempfile.TemporaryDirectory(prefix="pvtime-judge-") as folder:
        image = Path(folder) / "judge.img"
        image.write_bytes(judge_image(wanted.image_options))
        control = Path(folder) if wanted.events - {LifeEvent.RESET} else None
        with Vmm(command, str(image), control, wanted.limit_s) as vmm:
            return judge(vmm, name, wanted.limit_s, wanted.events, wanted.chosen)


def judge_own(engine: str, placement: str, vcpus: int, mistake: str | None, wanted: Wanted) -> Judgement:
    """Judge a machine of pvtime's own.

    :param mistake: what it does wrong (``--break``); None: nothing.
    :raises PvtimeError: this host cannot run it.
    """
    kind, _ = choose(engine)
    name = f"pvtime ({kind.name}, {placement})"
    broken = {} if mistake is None else {BREAK: mistake}
    if mistake is not None:
        name += f", BROKEN ON PURPOSE (--break {mistake})"
    if kind.name == "kvm":  # its vCPUs are threads, as another VMM's are
        options = ["--engine", kind.name, "--placement", placement, "--vcpus", str(vcpus)]
        command = [*PVTIME, "run", "--kernel", "{image}", *options]
        command += [word for pair in broken.items() for word in (f"--{pair[0]}", pair[1])]
        # Words that come later win.
        seconds = f"seconds={TOLD_S}" if wanted.events - {LifeEvent.RESET} else ""
        words = (seconds, wanted.image_options, f"wait={LATE_S[bool(wanted.events)]}")
        return judge_vmm(command, name, replace(wanted, image_options=" ".join(filter(None, words))))
    kernel = judge_kernel(wanted.image_options)
    config = MachineConfig(vcpus, MEMORY, kernel, placement=PlacementName(placement))

    def build(machine: Machine) -> Engine:
        return kind.build(machine, broken, Schedule.parse([STOLEN]))

    with OwnMachine(build, config) as subject:
        return judge(subject, name, wanted.limit_s, wanted.events, wanted.chosen)
