# SPDX-License-Identifier: GPL-2.0-or-later
"""Entry point of ``pvtime`` and ``python -m pvtime``: handle signals before the slow imports."""

from __future__ import annotations

import signal
import sys
from typing import Final, NoReturn

__all__ = ["main"]

EXIT_INTERRUPTED: Final = 128 + signal.SIGINT


def main() -> int:
    """Run the command line of this process and return the exit code.

    Ctrl-C, SIGTERM and SIGHUP end every command with its cleanup and without a traceback, even while modules
    are imported. The exit code is then 128 and the signal's number.
    """
    # A process that was started by nohup keeps ignoring SIGHUP.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _exit)
    try:
        from pvtime.cli.command import main as run_command_line

        code = run_command_line()
        # Nothing is left to clean up, and the interpreter prints an exception that it meets at its end.
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return code


def _exit(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
