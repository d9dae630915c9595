# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime judge``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from pvtime.cli.params import FILE_NAME, WholeNumber, break_option, engine_option, parsed_by, seconds
from pvtime.errors import UsageError
from pvtime.judge.choice import image_choice, parse_choice
from pvtime.judge.console import MAX_CPUS
from pvtime.steal.placement import PlacementName

__all__ = ["judge_command"]

PACKAGES = {"qemu-system-aarch64": "qemu-system-arm"}
"""Debian's package of a program."""
LAB_MEMORY = 3072
"""MiB: QEMU and its libraries are in the lab's memory too."""
SECONDS = 2
"""The image's own choice."""
TIMEOUT_S = 60
LAB_TIMEOUT_S = 300
STDOUT = Path("-")


@click.command(
    "judge",
    short_help="Check a VMM's stolen time",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.option("--write-image", type=FILE_NAME, metavar="FILE", help="Only write the image to FILE.")
@click.option(
    "--vcpus",
    type=WholeNumber(1, MAX_CPUS),
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
@break_option
@click.option(
    "--timeout",
    callback=parsed_by(seconds),
    metavar="SECONDS",
    help="Give up after SECONDS. Default: 60, with --lab 300, as an emulated host is slow.",
)
@click.option(
    "--seconds",
    type=WholeNumber(1, 3600),
    metavar="N",
    default=SECONDS,
    show_default=True,
    help="Time for which the image reads counts while the host steals.",
)
@click.option(
    "--checks",
    "chosen",
    metavar="NAMES",
    callback=parsed_by(parse_choice),
    help="Make these checks, with commas between, and those that they need. Default: all. See docs/judge.md.",
)
@click.option("--pause", is_flag=True, help="Pause the machine meanwhile, for less than a second.")
@click.option(
    "--migrate",
    is_flag=True,
    help="Save the machine meanwhile, and restore it in a fresh process: QEMU and pvtime.",
)
@click.option("--reset", is_flag=True, help="Reset the machine (PSCI SYSTEM_RESET) and check it all again.")
@click.option("--lab", "in_lab", is_flag=True, help="Judge on an emulated arm64 KVM host, see pvtime lab.")
@click.option(
    "--lava",
    metavar="TYPE",
    help="Only print a job for LAVA that does this on a host of device type TYPE, which is reached by ssh.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead of lines.")
@click.option("--ktap", is_flag=True, help="Print KTAP instead of lines, with the host's checks.")
@click.option(
    "--junit",
    type=FILE_NAME,
    metavar="FILE",
    help="Write the results to FILE, as JUnit's XML; - is standard output, instead of lines.",
)
@click.option("--console", type=FILE_NAME, metavar="FILE", help="Write the machine's console to FILE.")
@click.argument("command", nargs=-1)
def judge_command(
    write_image: Path | None,
    vcpus: int,
    engine: str,
    placement: str,
    mistake: str | None,
    timeout: float | None,
    seconds: int,
    chosen: frozenset[str] | None,
    pause: bool,
    migrate: bool,
    reset: bool,
    in_lab: bool,
    lava: str | None,
    as_json: bool,
    ktap: bool,
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
    from pvtime.judge.course import Wanted, judge_own, judge_vmm
    from pvtime.judge.document import lines, to_json, to_junit, to_ktap
    from pvtime.judge.image_file import judge_image
    from pvtime.judge.monitor import program_of
    from pvtime.judge.session import LifeEvent
    from pvtime.report.output_file import refuse_unwritable, write_whole

    given = {LifeEvent.PAUSE: pause, LifeEvent.MIGRATE: migrate, LifeEvent.RESET: reset}
    events = frozenset(event for event in LifeEvent if given[event])
    chosen = chosen or frozenset()
    words = [f"seconds={seconds}"] * (seconds != SECONDS) + ["reset"] * reset
    image_options = " ".join([*words, image_choice(chosen)]).strip()
    if write_image is not None:
        write_whole(write_image, judge_image(image_options), "the image")
        return 0
    options = ["--engine", engine, "--placement", placement, "--vcpus", str(vcpus)]
    timeout = timeout or (LAB_TIMEOUT_S if in_lab else TIMEOUT_S)
    options += ["--timeout", str(timeout), "--seconds", str(seconds)]
    if mistake is not None:
        if command:
            raise UsageError("--break is for a machine of pvtime's own: leave out the VMM's command")
        options += ["--break", mistake]
    if chosen:
        options += ["--checks", ",".join(sorted(chosen))]
    options += [f"--{event.value}" for event in LifeEvent if event in events]
    if lava is not None:
        from pvtime.judge.lava import lava_job

        more = ["--lab"] if in_lab else []
        sys.stdout.write(lava_job(lava, [*options, *more, "--", *command]))
        return 0
    if as_json + ktap + (junit == STDOUT) > 1:
        raise UsageError("--json, --ktap and --junit - all print to standard output: choose one of them")
    if console == STDOUT:
        raise UsageError("--console needs the name of a file: standard output has the results")
    outputs = {"the results": junit, "the console": console}
    for what, path in outputs.items():
        if path is not None and path != STDOUT:
            refuse_unwritable(path, what)
    if in_lab:
        options += [word for word, given in (("--json", as_json), ("--ktap", ktap)) if given]
        return _judge_in_lab(options, junit, console, command)
    wanted = Wanted(timeout, image_options, events, chosen)
    if command:
        result = judge_vmm(command, Path(program_of(command)[-1]).name, wanted)
    else:
        result = judge_own(engine, placement, vcpus, mistake, wanted)
    if junit is not None and junit != STDOUT:
        write_whole(junit, to_junit(result), "the results")
    if console is not None:
        write_whole(console, result.console.decode(errors="replace"), "the console")
    if as_json:
        sys.stdout.write(to_json(result))
    elif ktap:
        sys.stdout.write(to_ktap(result))
    elif junit == STDOUT:
        sys.stdout.write(to_junit(result))
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
    out = {name: path for name, path in files.items() if path is not None and path != STDOUT}
    written = [word for name in out for word in (f"--{name}", name)]
    if junit == STDOUT:
        written += ["--junit", str(STDOUT)]
    return run_in_lab(
        ["pvtime", "judge", *options, *written, "--", *command],
        options=LabOptions(memory=LAB_MEMORY),
        extras=extras,
        out=out,
    )
