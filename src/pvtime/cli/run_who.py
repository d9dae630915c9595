# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime run --who``: ``pvtime who`` beside the run, in a process of its own.

In the run's process it would take the interpreter's lock from the threads that it looks at.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

from pvtime.errors import UsageError
from pvtime.run.options import RunOptions

__all__ = ["naming_thieves"]

END_TIMEOUT_S = 10.0


@contextlib.contextmanager
def naming_thieves(options: RunOptions) -> Iterator[None]:
    """Trace this process's machine during a ``with`` block, and print who stole from it at the end.

    :raises UsageError: this host or this user cannot trace.
    """
    from pvtime.watch.who import check_tracing

    if options.detach:
        raise UsageError("--who prints at the end: leave out --detach, and call pvtime who when it runs")
    check_tracing()
    command = [sys.executable, "-m", "pvtime", "who", str(os.getpid()), "--wait", "--until-end"]
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
            with contextlib.suppress(subprocess.TimeoutExpired):
                text, _ = tracer.communicate(timeout=END_TIMEOUT_S)
                options.output.write("\n" + text)
                options.output.flush()
            tracer.kill()
