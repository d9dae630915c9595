# SPDX-License-Identifier: GPL-2.0-or-later
"""Execution of a program that dies with the process that started it.

Run as a script, by path: ``die_with_parent.py PARENT-PID PROGRAM ARGUMENT...``. PR_SET_PDEATHSIG outlives
execve (prctl(2)), so QEMU cannot be left behind, however its parent ends. A Popen ``preexec_fn`` could do the
same, but not safely in a process that has threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Tie this process to its parent, then replace it by the program."""
    parent, program = int(arguments[0]), arguments[1:]
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # The parent died before the call: no signal will come.
        sys.exit(1)
    os.execvp(program[0], program)


if __name__ == "__main__":
    main(sys.argv[1:])
