# SPDX-License-Identifier: GPL-2.0-or-later
"""Options of every command that runs a machine, wherever the machine comes from."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click

from pvtime.cli.params import (
    FILE_NAME,
    WholeNumber,
    break_option,
    key_values,
    parsed_by,
    sample_interval,
    seconds,
)
from pvtime.engine.base import BREAK, COUNTER_FREQUENCY
from pvtime.errors import UsageError
from pvtime.inject.schedule import Item, Schedule
from pvtime.machine.timer import MAX_HZ, MIN_HZ
from pvtime.run.options import STDOUT, RunOptions, SaveAt

__all__ = ["parse_steal", "run_options"]


def run_options(command: Callable[..., int]) -> Callable[..., int]:
    """Add the options to a command, which gets them as its parameter ``options``, a :class:`RunOptions`."""

    @functools.wraps(command)
    def parsed(
        *,
        engine_options: dict[str, str],
        steal: Schedule,
        steal_pauses: bool,
        lpt: bool,
        counter_frequency: int | None,
        mistake: str | None,
        duration: float | None,
        save_at: SaveAt | None,
        name: str | None,
        control: Path | None,
        no_control: bool,
        detach: bool,
        report: Path | None,
        report_stream: Path | None,
        stream_interval: float,
        quiet: bool,
        interactive: bool,
        **others: Any,
    ) -> int:
        if quiet and interactive:
            raise UsageError("--quiet and --interactive exclude each other: leave one of them out")
        if save_at is not None and duration is not None and save_at.seconds >= duration:
            raise UsageError("--duration ends the run before --save-at: leave one of them out")
        if counter_frequency is not None:
            engine_options = {**engine_options, COUNTER_FREQUENCY: str(counter_frequency)}
        if mistake is not None:
            engine_options = {**engine_options, BREAK: mistake}
        if no_control and (name is not None or control is not None or detach):
            raise UsageError("--no-control excludes --name, --control and --detach: leave one of them out")
        if detach and (quiet or STDOUT in (report, report_stream)):
            raise UsageError("--detach prints nothing: leave out --quiet, and give a report a file")
        if report == report_stream == STDOUT:
            raise UsageError("--report and --report-stream cannot both be standard output: give one a file")
        options = RunOptions(
            name=name,
            no_control=no_control,
            detach=detach,
            engine_options=engine_options,
            lpt=lpt,
            steal=replace(steal, pauses=steal_pauses),
            duration=duration,
            save_at=save_at,
            control=control,
            report=report,
            report_stream=report_stream,
            stream_interval=stream_interval,
            quiet=quiet,
            interactive=interactive,
        )
        return command(**others, options=options)

    for option in reversed(OPTIONS):
        parsed = option(parsed)
    return parsed


def parse_steal(values: Iterable[str]) -> Schedule:
    """Return the schedule of some items; ``@FILE`` stands for a file with one item a line.

    :raises UsageError: a file cannot be read, or an item is invalid; the message names it.
    """
    items: list[Item] = []
    for value in values:
        items += _items_of_file(Path(value[1:])) if value.startswith("@") else [Item.parse(value)]
    return Schedule(tuple(items))


def _items_of_file(path: Path) -> Iterator[Item]:
    """Yield the items of a regular, small file of text, of which there is one at least."""
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"{path} is not a regular file: give a text file")
        if not path.stat().st_size:  # nor has a file of /proc, and /proc/kmsg waits at its end
            raise UsageError(f"{path} is empty: {ONE_A_LINE}")
        with path.open("rb") as file:
            data = file.read(MAX_SCHEDULE_FILE + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except ValueError:  # invalid UTF-8, or a name with a NUL
        raise UsageError(f"{path} is not a text file") from None
    if len(data) > MAX_SCHEDULE_FILE:
        raise UsageError(f"{path} is larger than {MAX_SCHEDULE_FILE >> 10} KiB: it is no steal schedule")
    if not any(line.partition("#")[0].strip() for line in text.splitlines()):
        raise UsageError(f"{path} has no item: {ONE_A_LINE}")
    for number, line in enumerate(text.splitlines(), 1):
        if item := line.partition("#")[0].strip():
            try:
                yield Item.parse(item)
            except UsageError as error:
                raise UsageError(f"{path}:{number}: {error}") from error


def _name(text: str) -> str:
    from pvtime.run.runtime_dir import check_name

    return check_name(text)


def _save_at(value: tuple[str, Path]) -> SaveAt:
    return SaveAt(seconds(value[0]), value[1])


MAX_SCHEDULE_FILE: Final = 64 << 10
"""Bytes of a file of steal items."""

ONE_A_LINE: Final = "write one item a line, such as 30%@5-10"

OPTIONS: Final = (
    click.option(
        "--duration",
        callback=parsed_by(seconds),
        metavar="SECONDS",
        help="End the run this long after userland came up.",
    ),
    click.option(
        "--interactive", is_flag=True, help="Connect the guest's console to this terminal; Ctrl-] q ends."
    ),
    click.option(
        "--quiet",
        is_flag=True,
        help="Print the last table only; with --report - print the report only.",
    ),
    click.option(
        "--report",
        type=FILE_NAME,
        metavar="FILE",
        help="Write the figures as JSON to FILE at the end; - is standard output.",
    ),
    click.option(
        "--report-stream",
        type=FILE_NAME,
        metavar="FILE",
        help="Write samples and events as lines of JSON to FILE while it runs; - is standard output.",
    ),
    click.option(
        "--stream-interval",
        callback=parsed_by(sample_interval),
        default="1",
        show_default=True,
        metavar="SECONDS",
        help="Time between two samples of --report-stream.",
    ),
    click.option(
        "--steal",
        multiple=True,
        callback=parsed_by(parse_steal),
        metavar="[VCPUS:]AMOUNT[/PERIOD][@FROM[-TO]]",
        help="Steal time from vCPUs: 30% all the time; 1:200ms/1s@5-10 from vCPU 1, in seconds 5 to 10; "
        "4s@10 once. @FILE reads one item from each line. May be repeated. See docs/steal.md.",
    ),
    click.option(
        "--steal-pauses",
        is_flag=True,
        help="While the machine is paused, let the guest's clocks go on, and count the pause as stolen time.",
    ),
    click.option(
        "--save-at",
        type=(str, FILE_NAME),
        callback=parsed_by(_save_at),
        metavar="SECONDS DIRECTORY",
        help="Save the machine to a new directory this long after userland came up, and end the run.",
    ),
    click.option(
        "--name",
        callback=parsed_by(_name),
        metavar="NAME",
        help="Name of the machine, for pvtime ps, steal, stat and others. Default: guest-PID.",
    ),
    click.option(
        "--control",
        type=FILE_NAME,
        metavar="SOCKET",
        help="Path of the control socket. Default: in the user's runtime directory, for pvtime ps.",
    ),
    click.option("--no-control", is_flag=True, help="Create no control socket."),
    click.option(
        "--detach",
        is_flag=True,
        help="Return when the machine runs, and let it run in the background; with --interactive the guest "
        "has a shell, for pvtime console.",
    ),
    click.option(
        "--lpt",
        is_flag=True,
        help="Offer Live Physical Time, which was never merged into Linux; embedded engine only. See "
        "docs/lpt.md.",
    ),
    click.option(
        "--counter-frequency",
        type=WholeNumber(MIN_HZ, MAX_HZ),
        metavar="HZ",
        help="Have this host's counter count HZ ticks a second; embedded engine only. Default: 62500000. See "
        "docs/lpt.md.",
    ),
    break_option,
    click.option(
        "--engine-option",
        "engine_options",
        multiple=True,
        callback=parsed_by(key_values),
        metavar="KEY=VALUE",
        help="Set an option of the engine, such as internals=off. May be repeated.",
    ),
)
