# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime judge``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pvtime.cli.params import FILE_NAME, WholeNumber, engine_option, parsed_by, seconds
from pvtime.errors import UsageError, oserror_context
from pvtime.machine.layout import MAX_VCPUS
from pvtime.steal.placement import PlacementName

if TYPE_CHECKING:
    from pvtime.engine.base import Engine
    from pvtime.judge.session import Judgement
    from pvtime.machine.machine import Machine

__all__ = ["judge_command"]

PACKAGES = {"qemu-system-aarch64": "qemu-system-arm"}
"""Debian's package of a program."""
LAB_MEMORY = 3072
"""MiB: QEMU and its libraries are in the lab's memory too."""
PVTIME = (sys.executable, "-m", "pvtime")
STOLEN = "30%"
"""Stolen from a machine on the embedded engine."""


@click.command(
    "judge",
    short_help="Check a VMM's stolen time",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.option("--write-image", type=FILE_NAME, metavar="FILE", help="Only write the image to FILE.")
@click.option(
    "--vcpus",
    type=WholeNumber(1, MAX_VCPUS),
    metavar="N",
    default=2,
    show_default=True,
    help="Number of vCPUs of a machine of pvtime's own.",
)
@engine_option
@click.option(
    "--placement",
    type=click.Choice([PlacementName.USERSPACE.value, PlacementName.HYPERVISOR.value]),
    default=PlacementName.USERSPACE.value,
    show_default=True,
    help="Who provides the memory for stolen time, in a machine of pvtime's own.",
)
@click.option(
    "--timeout",
    callback=parsed_by(seconds),
    default="60",
    show_default=True,
    metavar="SECONDS",
    help="Give up after SECONDS.",
)
@click.option("--lab", "in_lab", is_flag=True, help="Judge on an emulated arm64 KVM host, see pvtime lab.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead of lines.")
@click.option("--junit", type=FILE_NAME, metavar="FILE", help="Write the results to FILE, as JUnit's XML.")
@click.option("--console", type=FILE_NAME, metavar="FILE", help="Write the machine's console to FILE.")
@click.argument("command", nargs=-1)
def judge_command(
    write_image: Path | None,
    vcpus: int,
    engine: str,
    placement: str,
    timeout: float,
    in_lab: bool,
    as_json: bool,
    junit: Path | None,
    console: Path | None,
    command: tuple[str, ...],
) -> int:
    """Check stolen time in the VMM that COMMAND starts, by an image that it boots and by the host's figures.

    {image} in COMMAND stands for the image's path. The VMM's first serial port has to be its standard output.
    The vCPUs' threads share one CPU with a process that computes meanwhile. Without COMMAND, a machine of
    pvtime's own is judged. The exit code is 0 if stolen time is right, 1 if a check of it failed, 4 if there
    is no verdict.

    With --lab, all this happens on an emulated arm64 KVM host, with Debian's QEMU if COMMAND starts that.

    \b
    Examples:
        pvtime judge
        pvtime judge --lab -- qemu-system-aarch64 -M virt,gic-version=3 -cpu host -accel kvm -smp 2 -m 256
            -nodefaults -display none -serial stdio -kernel {image}
    """  # noqa: D301 (click wants the character)
    from pvtime.judge.document import lines, to_json, to_junit
    from pvtime.judge.image_file import judge_image
    from pvtime.report.output_file import refuse_unwritable, write_whole

    if write_image is not None:
        with oserror_context(str(write_image), UsageError):
            write_image.write_bytes(judge_image())
        return 0
    outputs = {"the results": junit, "the console": console}
    for what, path in outputs.items():
        if path is not None:
            refuse_unwritable(path, what)
    if in_lab:
        options = ["--engine", engine, "--placement", placement, "--vcpus", str(vcpus)]
        options += ["--timeout", str(timeout), *(["--json"] if as_json else [])]
        return _judge_in_lab(options, junit, console, command)
    if command:
        result = _judge_vmm(command, Path(command[0]).name, timeout)
    else:
        result = _judge_own(engine, placement, vcpus, timeout)
    if junit is not None:
        write_whole(junit, to_junit(result), "the results")
    if console is not None:
        write_whole(console, result.console.decode(errors="replace"), "the console")
    if as_json:
        sys.stdout.write(to_json(result))
    else:
        for line in lines(result):
            print(line)
    return int(result.exit_code)


def _judge_in_lab(
    options: Sequence[str], junit: Path | None, console: Path | None, command: Sequence[str]
) -> int:
    from pvtime.lab.initramfs import LabExtras, fetch
    from pvtime.lab.lab import run_in_lab
    from pvtime.lab.qemu import LabOptions, require_qemu
    from pvtime.report.image_progress import image_progress

    require_qemu()
    programs = [PACKAGES[word] for word in command[:1] if word in PACKAGES]
    extras = LabExtras(programs=tuple(programs))
    with image_progress(sys.stderr) as progress:
        fetch(progress, extras)
    files = {"junit": junit, "console": console}
    out = {name: path for name, path in files.items() if path is not None}
    written = [word for name in out for word in (f"--{name}", name)]
    return run_in_lab(
        ["pvtime", "judge", *options, *written, "--", *command],
        options=LabOptions(memory=LAB_MEMORY),
        extras=extras,
        out=out,
    )


def _judge_vmm(command: Sequence[str], name: str, timeout: float) -> Judgement:
    import tempfile

    from pvtime.judge.image_file import judge_image
    from pvtime.judge.session import judge
    from pvtime.judge.subject import Vmm

    with tempfile.NamedTemporaryFile(prefix="pvtime-judge-", suffix=".img") as image:
        image.write(judge_image())
        image.flush()
        with Vmm(command, image.name) as vmm:
            return judge(vmm, name, timeout)


def _judge_own(engine: str, placement: str, vcpus: int, timeout: float) -> Judgement:
    import queue

    from pvtime.engine.registry import choose
    from pvtime.inject.schedule import Schedule
    from pvtime.judge.image_file import judge_kernel
    from pvtime.judge.session import judge
    from pvtime.judge.subject import OwnMachine
    from pvtime.machine.machine import MachineConfig
    from pvtime.probe.guest import machine_with_engine

    kind, _ = choose(engine)
    name = f"pvtime ({kind.name}, {placement})"
    if kind.name == "kvm":  # its vCPUs are threads, as another VMM's are
        options = ["--engine", kind.name, "--placement", placement, "--vcpus", str(vcpus)]
        return _judge_vmm([*PVTIME, "run", "--kernel", "{image}", *options], name, timeout)
    config = MachineConfig(vcpus, 256 << 20, judge_kernel(), placement=PlacementName(placement))
    console: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def build(machine: Machine) -> Engine:
        return kind.build(machine, {}, Schedule.parse([STOLEN]))

    with machine_with_engine(build, config, console.put) as (_, started):
        started.start()
        return judge(OwnMachine(started, console), name, timeout)
