# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime run``: from the options to the exit code."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from pvtime.cli import engines, guest
from pvtime.cli.interactive import ANNOUNCEMENT, Keyboard, RawView
from pvtime.cli.signals import ending_signals, window_changes
from pvtime.cli.terminal import Terminal
from pvtime.engine.base import Engine
from pvtime.machine.machine import Machine, MachineConfig
from pvtime.report import document
from pvtime.report.inbox import Inbox
from pvtime.report.live import LinesView, LiveView, QuietView, is_terminal
from pvtime.report.plan import Ending, Plan
from pvtime.report.session import Session
from pvtime.steal.placement import PlacementName

__all__ = ["STDOUT", "Run", "execute"]

STDOUT: Final = Path("-")
"""As ``--report``: standard output. What is for people then goes to standard error."""


@dataclass(frozen=True)
class Run:
    """What ``pvtime run`` was asked for. ``memory`` in bytes, ``duration`` in seconds."""

    wishes: guest.Wishes
    memory: int
    cpu: str | None
    engine: str
    options: Mapping[str, str]
    placement: PlacementName
    without: frozenset[int]
    duration: float | None
    report: Path | None
    quiet: bool

    @property
    def silent(self) -> bool:
        """Whether nothing is for people."""
        return self.quiet and self.report == STDOUT

    @property
    def output(self) -> TextIO:
        """Where what is for people goes."""
        return sys.stderr if self.report == STDOUT else sys.stdout


@dataclass(frozen=True)
class Assembled:
    """A machine with the engine that runs it, and where it says what happens."""

    engine: Engine
    machine: Machine
    inbox: Inbox
    plan: Plan


def execute(run: Run) -> int:
    """Boot the guest and show it; return the exit code.

    :raises PvtimeError: what was asked for cannot be, or the engine could not go on.
    """
    if run.report is not None and run.report != STDOUT:
        document.refuse_unwritable(run.report)
    with contextlib.ExitStack() as stack:
        # First of all: it forks, which is cheap as long as there are no threads and no guest memory.
        terminal = stack.enter_context(Terminal(sys.stdin.fileno())) if run.wishes.interactive else None
        assembled = _assemble(run, terminal)
        stack.callback(assembled.inbox.close)
        stack.callback(assembled.machine.close)
        ending = _show(run, assembled, terminal)
    return _leave(run, ending)


def _assemble(run: Run, terminal: Terminal | None) -> Assembled:
    kind, reason = engines.choose(run.engine)
    screen = terminal.size() if terminal else os.terminal_size((0, 0))
    fetching = None if run.quiet else run.output
    chosen = guest.choose(run.wishes, screen, os.environ.get("TERM", ""), fetching)
    inbox = Inbox(eager=terminal is not None)
    config = MachineConfig(
        vcpus=run.wishes.vcpus,
        memory=run.memory,
        kernel=chosen.kernel,
        initrd=chosen.initrd,
        append=chosen.append,
        cpu=run.cpu,
        placement=run.placement,
        without=run.without,
    )
    machine = Machine(config, console=inbox.console, agent=inbox.agent)
    engine = kind.build(machine, run.options)
    if not run.quiet:
        print(f"pvtime: engine {kind.name}: {reason}", file=run.output, flush=True)
    plan = Plan(
        tell_agent=machine.agent.receive if chosen.agent else None,
        duration=run.duration,
        placement=run.placement.value,
    )
    return Assembled(engine, machine, inbox, plan)


def _show(run: Run, assembled: Assembled, terminal: Terminal | None) -> Ending:
    """Run the session behind the view that the output allows."""
    inbox = assembled.inbox
    with contextlib.ExitStack() as stack:
        stack.enter_context(ending_signals(inbox))
        view: RawView | QuietView | LinesView | LiveView
        if terminal is not None:
            print(ANNOUNCEMENT, file=run.output, flush=True)
            stack.enter_context(window_changes(inbox, terminal.size))
            stack.enter_context(terminal.raw())
            inbox.watch(terminal.fd, Keyboard(terminal.fd, assembled.machine.console.receive, inbox).readable)
            view = RawView(run.output)
        elif run.quiet:
            view = QuietView()
        else:
            view = LiveView(run.output) if is_terminal(run.output) else LinesView(run.output)
            stack.enter_context(view)
        return Session(assembled.engine, inbox, view, assembled.plan).run()


def _leave(run: Run, ending: Ending) -> int:
    """Write and print what is left of the run; return the exit code.

    :raises PvtimeError: the report could not be written, or the engine could not go on.
    """
    if run.report == STDOUT:
        sys.stdout.write(document.to_json(ending.report))
        sys.stdout.flush()
    elif run.report is not None:
        document.write(ending.report, run.report)
    if not run.silent:
        from pvtime.report.table import print_report  # see there what it costs

        print_report(ending.report, ending.last, run.output)
    for note in ending.notes:
        print(f"pvtime: {note}", file=sys.stderr)
    if ending.error is not None:
        raise ending.error
    return 0 if ending.signal is None else 128 + ending.signal
