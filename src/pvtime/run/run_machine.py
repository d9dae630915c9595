# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine's run for a user: from the options to the exit code."""

from __future__ import annotations

import contextlib
import sys
from functools import partial
from typing import TYPE_CHECKING, Final

from pvtime.engine.base import Outcome
from pvtime.report import document, output_file
from pvtime.report.views import LinesView, LiveView, QuietView, RawView, View, is_terminal
from pvtime.run.export_control import ExportControl, listen
from pvtime.run.inbox import Inbox
from pvtime.run.options import STDOUT, RunOptions
from pvtime.run.save_at import refuse_unwritable
from pvtime.run.session import RunResult, Session
from pvtime.run.signals import droppable_output, ending_signals, window_changes
from pvtime.run.source import NO_SCREEN, BuiltMachine, MachineSource
from pvtime.run.terminal import ESCAPE_HELP, FIGURES, HELP, KEYS_HELP, Keyboard, Terminal

if TYPE_CHECKING:
    from pvtime.snapshot.address import OwnSocket

__all__ = ["EXIT_GUEST_FAILED", "run_machine"]

EXIT_GUEST_FAILED: Final = 3
"""Exit code of a run whose guest panicked or never reached userland (docs/report.md lists all codes)."""
GUEST_FAILED: Final = (Outcome.PANICKED, Outcome.NO_USERLAND)


@droppable_output()
def run_machine(source: MachineSource, options: RunOptions) -> int:
    """Run a machine, show it, and return the exit code.

    :raises PvtimeError: the options cannot be met, or the engine failed.
    """
    if options.report is not None and options.report != STDOUT:
        output_file.refuse_unwritable(options.report, "the report")
    if options.save_at is not None:
        refuse_unwritable(options.save_at.directory)
    with contextlib.ExitStack() as stack:
        # The terminal forks, which is cheap before there are threads and guest memory.
        terminal = stack.enter_context(Terminal(sys.stdin.fileno())) if options.interactive else None
        inbox = Inbox(eager=terminal is not None)
        stack.callback(inbox.close)
        # Before the machine: a migration must not fail for want of a control socket.
        listener = stack.enter_context(listen(options.control)) if options.control is not None else None
        built = source.build(options, inbox, terminal.size() if terminal else NO_SCREEN)
        stack.callback(built.machine.close)
        if not options.quiet:
            print(f"pvtime: engine {built.reason}", file=options.output, flush=True)
        result = _run_session(options, built, inbox, terminal, listener)
    return _finish(options, result)


def _run_session(
    options: RunOptions,
    built: BuiltMachine,
    inbox: Inbox,
    terminal: Terminal | None,
    listener: OwnSocket | None,
) -> RunResult:
    """Run the session with the view that fits the output."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(ending_signals(inbox))
        view: View
        if terminal is not None:
            print(f"pvtime: {ESCAPE_HELP}", file=options.output, flush=True)
            # A guest that boots has the first size in its command line.
            stack.enter_context(window_changes(inbox, terminal.size, at_once=built.resumed))
            stack.enter_context(terminal.raw())
            view = RawView(options.output)
        elif options.quiet:
            view = QuietView()
        elif is_terminal(options.output):
            view = stack.enter_context(LiveView(options.output))
        else:
            view = stack.enter_context(LinesView(options.output))
        export = ExportControl(built, inbox, listener)
        session = Session(built, inbox, view, options, on_start=export.begin, save=export.save)
        export.session = session
        if terminal is not None and isinstance(view, RawView):
            keyboard = Keyboard(terminal.fd, built.machine.console.receive, inbox)
            keyboard.commands[HELP] = partial(view.lines, KEYS_HELP)
            keyboard.commands[FIGURES] = partial(_show_figures, view, session)
            inbox.watch(terminal.fd, keyboard.readable)
        with contextlib.closing(export):
            return session.run()


def _show_figures(view: RawView, session: Session) -> None:
    view.figures(session.figures())


def _finish(options: RunOptions, result: RunResult) -> int:
    """Write the report, print the last table, and return the exit code.

    :raises PvtimeError: the report cannot be written, or the engine failed.
    """
    if options.report == STDOUT:
        sys.stdout.write(document.to_json(result.report))
        sys.stdout.flush()
    elif options.report is not None:
        output_file.write_whole(options.report, document.to_json(result.report), "the report")
    if not options.report_only:
        from pvtime.report.table import print_report  # its docstring has the cost

        print_report(result.report, result.last, options.output)
    for note in result.notes:
        print(f"pvtime: {note}", file=sys.stderr)
    if result.error is not None:
        raise result.error
    if result.signal is not None:
        return 128 + result.signal
    return EXIT_GUEST_FAILED if result.report.outcome in GUEST_FAILED else 0
