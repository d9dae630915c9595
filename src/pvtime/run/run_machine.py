# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine's run for a user: from the options to the exit code."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from pvtime.engine.base import Outcome
from pvtime.errors import GuestCommandError, UsageError
from pvtime.report import output_file
from pvtime.report.views import LinesView, LiveView, QuietView, RawView, View, is_terminal
from pvtime.run.inbox import Inbox
from pvtime.run.live_machine import LiveMachine
from pvtime.run.options import STDOUT, RunOptions
from pvtime.run.run_control import RunControl, listen
from pvtime.run.save_at import refuse_unwritable
from pvtime.run.session import RunResult, Session
from pvtime.run.signals import droppable_output, ending_signals, window_changes
from pvtime.run.source import NO_SCREEN, MachineSource
from pvtime.run.terminal import ESCAPE_HELP, FIGURES, HELP, KEYS_HELP, Keyboard, Terminal

if TYPE_CHECKING:
    from pvtime.run.detach import Background
    from pvtime.snapshot.address import OwnSocket

__all__ = ["EXIT_GUEST_FAILED", "run_machine"]

DEFAULT_NAME: Final = "guest"
"""Beginning of the name of a machine that was given none."""
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
    if options.report_stream is not None and options.report_stream != STDOUT:
        output_file.refuse_unwritable(options.report_stream, "the stream")
    if options.save_at is not None:
        refuse_unwritable(options.save_at.directory)
    background = None
    if options.detach:
        from pvtime.run.detach import Background

        background = Background.fork()
        if background.pid:
            return _wait(background, options)
    with contextlib.ExitStack() as stack:
        # The terminal forks, which is cheap before there are threads and guest memory.
        on_terminal = options.interactive and not options.detach
        terminal = stack.enter_context(Terminal(sys.stdin.fileno())) if on_terminal else None
        inbox = Inbox(eager=terminal is not None)
        stack.callback(inbox.close)
        # Before the machine: a migration must not fail for want of a control socket.
        name = _name(options, os.getpid())
        listener = _listen(options, name)
        if listener is not None:
            stack.enter_context(listener)
        built = source.build(options, inbox, terminal.size() if terminal else NO_SCREEN)
        stack.callback(built.machine.close)
        if not options.quiet:
            print(f"pvtime: engine {built.reason}", file=options.output, flush=True)
        live = LiveMachine(name, built, inbox, options.steal)
        control = RunControl(live, inbox, listener, background.start if background else lambda: None)
        result = _run_session(options, live, inbox, terminal, control)
    return _finish(options, result)


def _name(options: RunOptions, pid: int) -> str:
    return options.name or f"{DEFAULT_NAME}-{pid}"


def _wait(background: Background, options: RunOptions) -> int:
    """Wait until the machine runs in the background; return the exit code."""
    code = background.wait()
    if code == 0:
        where = options.control or _name(options, background.pid)
        print(f"{where} runs in the background; pvtime stop {where} ends it")
    return code


def _listen(options: RunOptions, name: str) -> OwnSocket | None:
    """Return the control socket; None: the options want none, or there is no place for one that nobody named.

    :raises UsageError: the host refuses the one that the options name.
    """
    if options.no_control:
        return None
    if options.control is not None:
        return listen(options.control)
    from pvtime.run.runtime_dir import listen_as

    try:
        return listen_as(name)
    except UsageError as error:
        if options.name is not None or options.detach:
            raise
        if not options.quiet:
            print(f"pvtime: no control socket: {error}", file=sys.stderr)
        return None


def _run_session(
    options: RunOptions,
    live: LiveMachine,
    inbox: Inbox,
    terminal: Terminal | None,
    control: RunControl,
) -> RunResult:
    """Run the session with the view that fits the output."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(ending_signals(inbox))
        view: View
        if terminal is not None:
            print(f"pvtime: {ESCAPE_HELP}", file=options.output, flush=True)
            # A guest that boots has the first size in its command line.
            stack.enter_context(window_changes(inbox, terminal.size, at_once=live.built.resumed))
            stack.enter_context(terminal.raw())
            view = RawView(options.output)
        elif options.quiet or options.detach:
            view = QuietView()
        elif is_terminal(options.output):
            view = stack.enter_context(LiveView(options.output))
        else:
            view = stack.enter_context(LinesView(options.output))
        streamed = None if options.report_stream is None else _Streamed(options, live, view)
        shown = view if streamed is None else streamed.view

        def begin() -> None:
            if streamed is not None:
                streamed.begin()
            control.begin()

        session = Session(live.built, inbox, shown, options, on_start=begin, save=control.save)
        live.session = session
        if terminal is not None and isinstance(view, RawView):
            keyboard = Keyboard(terminal.fd, live.built.machine.console.receive, inbox)
            keyboard.commands[HELP] = partial(view.lines, KEYS_HELP)
            keyboard.commands[FIGURES] = partial(_show_figures, view, session)
            inbox.watch(terminal.fd, keyboard.readable)
        execution = None
        if options.execute is not None:
            from pvtime.run.execution import Execution

            execution = Execution(options.execute, session, inbox)
        with contextlib.closing(control):
            result = session.run()
        if execution is not None:
            result = replace(
                result,
                execution=execution.result,
                error=result.error or execution.error,
                notes=(*result.notes, *execution.notes),
            )
        return result if streamed is None else streamed.end(result)


class _Streamed:
    """A run whose samples and events are written while it runs."""

    def __init__(self, options: RunOptions, live: LiveMachine, view: View) -> None:
        from pvtime.run.stream_view import LineWriter, StreamView

        assert options.report_stream is not None
        self._live = live
        self._writer = LineWriter(options.report_stream)
        self.view = StreamView(view, self._writer, options.stream_interval)

    def begin(self) -> None:
        """Write the first line, before any event."""
        self.view.begin(asdict(self._live.info()))
        self._live.session.events.observers.append(self.view.event)

    def end(self, result: RunResult) -> RunResult:
        """Write the last figures; return the result, with the error of a stream that could not be written."""
        self.view.last(result.last)
        try:
            self._writer.close()
        except UsageError as error:
            return replace(result, error=result.error or error)
        return result


def _show_figures(view: RawView, session: Session) -> None:
    view.figures(session.figures())


def _finish(options: RunOptions, result: RunResult) -> int:
    """Write the report, print the last table, and return the exit code.

    :raises PvtimeError: the report cannot be written, or the engine failed.
    """
    if options.report is not None:
        from pvtime.report.document import to_json  # not needed before

        if options.report == STDOUT:
            sys.stdout.write(to_json(result.report))
            sys.stdout.flush()
        else:
            output_file.write_whole(options.report, to_json(result.report), "the report")
    if not options.report_only:
        from pvtime.report.table import print_report  # its docstring has the cost

        print_report(result.report, result.last, options.output)
    for note in result.notes:
        print(f"pvtime: {note}", file=sys.stderr)
    if result.execution is not None:
        sys.stdout.flush()
        sys.stdout.buffer.write(result.execution.output)
        sys.stdout.buffer.flush()
    if result.error is not None:
        raise result.error
    if result.signal is not None:
        return 128 + result.signal
    if result.execution is not None:
        return result.execution.code
    if options.execute is not None and result.report.outcome not in GUEST_FAILED:
        raise GuestCommandError(f"the guest has ended before the command in it had: {options.execute}")
    return EXIT_GUEST_FAILED if result.report.outcome in GUEST_FAILED else 0
