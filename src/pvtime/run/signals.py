# SPDX-License-Identifier: GPL-2.0-or-later
"""Signals as events for the main thread."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

from pvtime.run.inbox import Inbox, SignalReceived, TerminalResized
from pvtime.streams import discard

__all__ = ["ENDING", "SIGNALS_BEFORE_KILL", "droppable_output", "ending_signals", "window_changes"]

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Requests to end: Ctrl-C, kill(1), a terminal that was closed."""

OUTPUT_TIMEOUT_S: Final = 1.0
"""Time for somebody to read the output of a run that was asked to end."""

SIGNALS_BEFORE_KILL: Final = 2
"""Signals that end the run in order: the first asks the guest to power off, the second stops it."""


@contextlib.contextmanager
def ending_signals(inbox: Inbox) -> Iterator[None]:
    """Put :data:`ENDING` into ``inbox`` for the time of a ``with`` block.

    The signal after :data:`SIGNALS_BEFORE_KILL` kills the process. From the first one on, to the end of
    :func:`droppable_output`, a terminal or pipe that nobody reads is no obstacle: a write to it would wait
    without end, and is repeated after a signal's handler. So standard output and error become /dev/null once
    they take nothing.
    """
    count = 0

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count > SIGNALS_BEFORE_KILL:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        signal.signal(signal.SIGALRM, _drop_blocked_output)
        signal.setitimer(signal.ITIMER_REAL, OUTPUT_TIMEOUT_S, OUTPUT_TIMEOUT_S)
        inbox.put(SignalReceived(number))

    # A process that was started by nohup keeps ignoring SIGHUP.
    wanted = [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, handle) for number in wanted}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def droppable_output() -> Iterator[None]:
    """End what the first of :func:`ending_signals` began with the output, after a run's last line.

    Python restores the default action of SIGALRM at its end: a timer that is left would kill the process.
    """
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _drop_blocked_output(_number: int, _frame: FrameType | None) -> None:
    outputs = [sys.stdout.fileno(), sys.stderr.fileno()]
    _, writable, _ = select.select([], outputs, [], 0)
    for fd in set(outputs) - set(writable):
        discard(fd)


@contextlib.contextmanager
def window_changes(
    inbox: Inbox, size: Callable[[], os.terminal_size], *, at_once: bool = False
) -> Iterator[None]:
    """Put every new ``size`` of the terminal into ``inbox`` for the time of a ``with`` block.

    :param at_once: the present size too.
    """

    def put_size() -> None:
        columns, rows = size()
        if rows and columns:
            inbox.put(TerminalResized(rows, columns))

    def handle(_number: int, _frame: FrameType | None) -> None:
        put_size()

    if at_once:
        put_size()
    previous = signal.signal(signal.SIGWINCH, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, previous)
