# SPDX-License-Identifier: GPL-2.0-or-later
"""Waiting for a cause: the one way in which a test waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from pvtime.engine.base import Engine

__all__ = ["DEADLINE", "wait_until"]

DEADLINE: Final = 300
"""Seconds after which a hung test is ended. It is no assertion: all that is waited for takes a few seconds at
most on a quiet host. A guest that boots in 1.5 s there was seen to take 43 s at a load of 14."""

_INTERVAL_S: Final = 0.000_5

T = TypeVar("T")


def wait_until(
    happened: Callable[[], T | None],
    engine: Engine | None = None,
    *,
    message: str | Callable[[], object] = "it did not happen",
    interval_s: float = _INTERVAL_S,
) -> T:
    """Wait until ``happened`` returns something true, and return that.

    :param engine: the guest's, whose run must not end before that has happened.
    :param message: text for a failure, or a function that returns it.
    :param interval_s: seconds between two looks; more where one is dear.
    """
    end = time.monotonic() + DEADLINE
    while True:
        # Before the look: what comes before the guest's end is seen then.
        ended = engine is not None and engine.wait(0) is not None
        if result := happened():
            return result
        assert not ended, "the guest has ended"
        assert time.monotonic() < end, message if isinstance(message, str) else message()
        time.sleep(interval_s)
