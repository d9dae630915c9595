# SPDX-License-Identifier: GPL-2.0-or-later
"""What the host takes from the engine's thread is stolen from the vCPU that it was running."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from framework.linux import boot_linux
from framework.wait import wait_until
from pvtime.engine.unicorn.engine import UnicornEngine
from pvtime.images.store import StockImages
from pvtime.steal.run_delay import Schedstat

STOLEN_NS = 50_000_000


def engine_thread() -> int:
    """Return the kernel's number of the engine's thread."""
    (tid,) = (thread.native_id for thread in threading.enumerate() if thread.name == "pvtime-engine")
    assert tid is not None
    return tid


@contextmanager
def contender(cpu: int) -> Iterator[None]:
    """Keep a CPU busy with another process."""
    loop = f"import os; os.sched_setaffinity(0, {{{cpu}}})\nwhile True: pass"
    process = subprocess.Popen([sys.executable, "-c", loop])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def moment(engine: UnicornEngine, schedstat: Schedstat) -> tuple[int, int]:
    """Return truth and the thread's run_delay at one moment: while a sample was taken it did not wait.

    The thread looks by itself: where it shares its one CPU with this thread, it waits before each answer.
    """

    def look() -> tuple[int, int, int]:
        return schedstat.run_delay(), engine.sample()[0].truth_ns, schedstat.run_delay()

    while True:
        before, truth, after = engine.call(look)
        if before == after:
            return truth, before


def test_what_the_host_takes_from_the_engines_thread_is_stolen_to_the_nanosecond(
    stock_images: StockImages,
) -> None:
    with boot_linux(stock_images) as guest:
        guest.ready()
        guest.tell("busy", 1)
        schedstat = Schedstat(tid := engine_thread())
        cpu = min(os.sched_getaffinity(tid))
        os.sched_setaffinity(tid, {cpu})
        # The thread may also wait in the microseconds before its vCPU's next load: then look again.
        differences: dict[int, int] = {}
        with contender(cpu):

            def follows() -> bool:
                truth, run_delay = moment(guest.engine, schedstat)
                return truth - differences.setdefault(run_delay - truth, truth) > STOLEN_NS

            wait_until(follows, message=lambda: f"truth does not follow run_delay: {differences}")
        schedstat.close()
