# SPDX-License-Identifier: GPL-2.0-or-later
"""Signals as events for the main thread."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

from pvtime.run.inbox import Inbox
from pvtime.run.plan import Resized, Signalled

__all__ = ["ENDING", "PATIENCE", "ending_signals", "window_changes"]

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What asks us to end: Ctrl-C, kill(1), a terminal that was closed."""

PATIENCE: Final = 2
"""Signals that are answered politely: the first asks the guest, the second stops it. One more kills."""


@contextlib.contextmanager
def ending_signals(inbox: Inbox) -> Iterator[None]:
    """Hand over :data:`ENDING` to ``inbox`` for the time of a ``with`` block."""
    seen = 0

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal seen
        seen += 1
        if seen > PATIENCE:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        inbox.put(Signalled(number))

    # A process that was started with nohup keeps ignoring the hang-up.
    wanted = [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    former = {number: signal.signal(number, handle) for number in wanted}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def window_changes(
    inbox: Inbox, size: Callable[[], os.terminal_size], *, at_once: bool = False
) -> Iterator[None]:
    """Hand over every new ``size`` of the terminal for the time of a ``with`` block.

    :param at_once: the present one too.
    """

    def tell() -> None:
        columns, rows = size()
        if rows and columns:
            inbox.put(Resized(rows, columns))

    def handle(_number: int, _frame: FrameType | None) -> None:
        tell()

    if at_once:
        tell()
    former = signal.signal(signal.SIGWINCH, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, former)
