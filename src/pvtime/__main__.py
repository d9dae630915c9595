# SPDX-License-Identifier: GPL-2.0-or-later
"""Entry point of ``pvtime`` and ``python -m pvtime``: handle signals before the slow imports.

Until a command runs there is nothing to clean up, and the process exits at once. From then on Ctrl-C, SIGTERM
and SIGHUP raise an exception, so that every command ends with its cleanup. The exit code is 128 and the
number of the signal, and there is never a traceback. What cannot be handled here is Ctrl-C while the
interpreter itself starts: it takes 10 ms on a quiet host, before the first line of ``bin/pvtime`` or, with
``python -m``, of the package.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import signal
import sys
import threading
import time

__all__ = ["main"]

# A process that was started by nohup keeps ignoring SIGHUP, one in a script's background SIGINT.
ENDING = [
    number
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    if signal.getsignal(number) is not signal.SIG_IGN
]

RETRY_S = 0.01
"""Delay of an ending that came where no exception can be raised, or as a wait began."""


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP has come.

    The interpreter drops any other exception in places such as the compiler's constant folding, where it also
    looks for signals: seen in an import of a module that has no bytecode yet, and SIGTERM was lost.
    """


def _exit_at_once(number: int, _frame: object) -> None:
    os._exit(128 + number)


ended_by: list[int] = []
"""Signals that have raised an exception."""


def _end(number: int, _frame: object) -> None:
    ended_by.append(number)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Terminated


def _handle(handler: signal._HANDLER) -> None:
    for number in ENDING:
        signal.signal(number, handler)


_handle(_exit_at_once)


class _WaitInterrupter:
    """A thread that sees to it that an ending ends the main thread's wait.

    Python handles a signal between two of its instructions. One that comes after the last of them before a
    system call would be handled at the end of that call, and a wait for a peer has none: seen as a receive
    that Ctrl-C did not end. So the thread sends SIGURG, which is otherwise ignored, until it is handled too.
    """

    def __init__(self) -> None:
        self._main = threading.get_ident()
        self._handled = 0
        self._reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.signal(signal.SIGURG, self._count)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="wait-interrupter", daemon=True).start()

    def _count(self, _number: int, _frame: object) -> None:
        self._handled += 1

    def _watch(self) -> None:
        while True:
            if not set(ENDING).isdisjoint(os.read(self._reader, 64)):  # numbers of signals
                handled = self._handled
                while self._handled == handled:
                    time.sleep(RETRY_S)
                    signal.pthread_kill(self._main, signal.SIGURG)


def main() -> int:
    """Run the command line of this process and return the exit code."""
    from pvtime.errors import REINSTALL
    from pvtime.streams import open_closed

    # The collector finds nothing while modules are imported, and took 5 % of the time to the guest.
    gc.set_threshold(50_000)
    try:
        open_closed()
        if sys.argv[1:] == ["--version"] and _print_version():
            return 0
        from pvtime.cli.command import EXIT_INTERRUPTED
        from pvtime.cli.command import main as run_command_line
    except (ImportError, MemoryError, OSError) as error:
        with contextlib.suppress(OSError):  # nobody is there to read it
            print(f"pvtime: cannot start: {error or 'not enough memory'}: {REINSTALL}", file=sys.stderr)
        return 1
    sys.excepthook = _print_unless_interrupted
    sys.unraisablehook = _retry_ending
    try:
        _handle(_end)
        # Where there can be no more files or threads, the command says so, if it must.
        with contextlib.suppress(OSError, RuntimeError):
            _WaitInterrupter()
        code = run_command_line()
        return 128 + ended_by[-1] if code == EXIT_INTERRUPTED and ended_by else code
    except (Exception, KeyboardInterrupt):
        # Before Python 3.12 an exception in __set_name__, as in an import of rich, becomes a RuntimeError.
        if not ended_by:
            raise
        return 128 + ended_by[-1]
    finally:
        # Nothing is left to clean up, and the interpreter prints an exception that it meets at its end.
        _handle(signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _print_version() -> bool:
    """Print the version without the imports of the command line; False: the output does not take it."""
    from pvtime import __version__

    with contextlib.suppress(OSError):
        print(f"pvtime {__version__}", flush=True)
        return True
    return False


def _print_unless_interrupted(kind: type[BaseException], error: BaseException, trace: object) -> None:
    """Print an exception, except a signal's that comes while :func:`main` ends."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)  # type: ignore[arg-type]


def _retry_ending(ignored: sys.UnraisableHookArgs) -> None:
    """Raise an ending again that came in a callback, such as a weak reference's in the midst of an import.

    An exception cannot leave a callback: the interpreter would print it, and Ctrl-C would be lost.
    """
    if isinstance(ignored.exc_value, KeyboardInterrupt):
        signal.signal(signal.SIGALRM, functools.partial(_raise, ignored.exc_value))
        signal.setitimer(signal.ITIMER_REAL, RETRY_S)
    else:
        sys.__unraisablehook__(ignored)


def _raise(error: BaseException, _number: int, _frame: object) -> None:
    raise error


if __name__ == "__main__":
    sys.exit(main())
