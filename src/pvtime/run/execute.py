# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine's run on the command line: from the options to the exit code."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

from pvtime.report import document
from pvtime.report.live import LinesView, LiveView, QuietView, is_terminal
from pvtime.run.departure import Departure, listen, refuse_existing
from pvtime.run.inbox import Inbox
from pvtime.run.keyboard import ANNOUNCEMENT, Keyboard, RawView
from pvtime.run.plan import Ending, Plan
from pvtime.run.session import Session
from pvtime.run.signals import ending_signals, window_changes
from pvtime.run.source import Made, Source
from pvtime.run.terminal import Terminal

if TYPE_CHECKING:
    from pvtime.snapshot.address import OwnSocket

__all__ = ["STDOUT", "Run", "execute"]

STDOUT: Final = Path("-")
"""As ``--report``: standard output. What is for people then goes to standard error."""


@dataclass(frozen=True)
class Run:
    """What was asked for, but for the machine. ``duration`` in seconds."""

    duration: float | None
    report: Path | None
    quiet: bool
    interactive: bool = False
    control: Path | None = None
    """Where to listen for ``pvtime save`` and ``pvtime migrate``."""
    save: tuple[float, Path] | None = None
    """When, in seconds counted as ``duration`` is, to save the machine, and where."""

    @property
    def silent(self) -> bool:
        """Whether nothing is for people."""
        return self.quiet and self.report == STDOUT

    @property
    def output(self) -> TextIO:
        """Where what is for people goes."""
        return sys.stderr if self.report == STDOUT else sys.stdout


def execute(run: Run, source: Source) -> int:
    """Run a machine and show it; return the exit code.

    :raises PvtimeError: what was asked for cannot be, or the engine could not go on.
    """
    if run.report is not None and run.report != STDOUT:
        document.refuse_unwritable(run.report)
    if run.save is not None:
        refuse_existing(run.save[1])
    with contextlib.ExitStack() as stack:
        # First of all: it forks, which is cheap as long as there are no threads and no guest memory.
        terminal = stack.enter_context(Terminal(sys.stdin.fileno())) if run.interactive else None
        inbox = Inbox(eager=terminal is not None)
        stack.callback(inbox.close)
        # Before the machine: one that another process has sent is not to fail for want of a socket.
        listener = stack.enter_context(listen(run.control)) if run.control is not None else None
        screen = terminal.size() if terminal else os.terminal_size((0, 0))
        made = source.make(inbox, screen, None if run.quiet else run.output)
        stack.callback(made.machine.close)
        if not run.quiet:
            print(f"pvtime: engine {made.reason}", file=run.output, flush=True)
        ending = _show(run, made, inbox, terminal, listener)
    return _leave(run, ending)


def _show(
    run: Run, made: Made, inbox: Inbox, terminal: Terminal | None, listener: OwnSocket | None
) -> Ending:
    """Run the session behind the view that the output allows."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(ending_signals(inbox))
        view: RawView | QuietView | LinesView | LiveView
        if terminal is not None:
            print(ANNOUNCEMENT, file=run.output, flush=True)
            # A guest that boots is told the first size by its command line.
            stack.enter_context(window_changes(inbox, terminal.size, at_once=made.resumed))
            stack.enter_context(terminal.raw())
            inbox.watch(terminal.fd, Keyboard(terminal.fd, made.machine.console.receive, inbox).readable)
            view = RawView(run.output)
        elif run.quiet:
            view = QuietView()
        else:
            view = LiveView(run.output) if is_terminal(run.output) else LinesView(run.output)
            stack.enter_context(view)
        departure = Departure(made, inbox, listener)
        plan = Plan(
            tell_agent=made.machine.agent.receive if made.agent else None,
            duration=run.duration,
            placement=made.machine.config.placement.value,
            stealing=bool(made.machine.config.steal),
            resumed=made.resumed,
            release=made.release,
            on_start=departure.begin,
            save=None if run.save is None else (run.save[0], partial(departure.save, run.save[1])),
        )
        session = departure.session = Session(made.engine, inbox, view, plan)
        with contextlib.closing(departure):
            return session.run()


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
