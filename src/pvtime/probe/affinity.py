# SPDX-License-Identifier: GPL-2.0-or-later
"""One CPU of the host for all that must share one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

__all__ = ["last_cpu", "one_cpu"]


def last_cpu() -> int:
    """Return the last CPU that the calling thread may use."""
    return max(os.sched_getaffinity(0))


@contextlib.contextmanager
def one_cpu() -> Iterator[int]:
    """Have the calling thread, and the threads and processes that it starts meanwhile, share one CPU.

    Yields its number, which is :func:`last_cpu`.
    """
    allowed = os.sched_getaffinity(0)
    cpu = last_cpu()
    os.sched_setaffinity(0, {cpu})
    try:
        yield cpu
    finally:
        os.sched_setaffinity(0, allowed)
