# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime run --who``: ``pvtime who`` beside the run, in a process of its own.

In the run's process it would take the interpreter's lock from the threads that it looks at.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

from pvtime.errors import UsageError
from pvtime.run.options import RunOptions

__all__ = ["naming_thieves"]

END_TIMEOUT_S = 60.0
"""Time for the tracer's figures, which were not there after 10 s on an emulated host."""


@contextlib.contextmanager
def naming_thieves(
    options: RunOptions, timeout_s: float = END_TIMEOUT_S, command: Sequence[str] | None = None
) -> Iterator[None]:
    """Trace this process's machine during a ``with`` block, and print who stole from it at the end.

    :param timeout_s: time for the figures after the end, in seconds.
    :param command: the tracer's; None: this ``pvtime who``.
    :raises UsageError: this host or this user cannot trace.
    """
    from pvtime.watch.who import check_tracing

    if options.detach:
        raise UsageError("--who prints at the end: leave out --detach, and call pvtime who when it runs")
    check_tracing()
    command = command or [sys.executable, "-m", "pvtime", "who", str(os.getpid()), "--wait", "--until-end"]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C ends the machine, and that ends it
    ) as tracer:
        try:
            yield
        finally:
            tracer.terminate()  # the machine has ended, or has not begun
            try:
                text, _ = tracer.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                text = (
                    f"--who: the tracing had not ended {timeout_s:g} s after the machine: it has no figures\n"
                )
            options.output.write("\n" + text)
            options.output.flush()
            tracer.kill()
