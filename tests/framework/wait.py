# SPDX-License-Identifier: GPL-2.0-or-later
"""Waiting for a cause: the one way in which a test waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from pvtime.engine.base import Engine

__all__ = ["DEADLINE", "wait_until"]

DEADLINE: Final = 120
"""Seconds after which a hung test is ended. It is no assertion: all that is waited for takes a few seconds at
most on a quiet host, and a busy one may take twenty times as long."""

_INTERVAL_S: Final = 0.000_5

T = TypeVar("T")


def wait_until(
    happened: Callable[[], T | None],
    engine: Engine | None = None,
    *,
    message: str | Callable[[], object] = "it did not happen",
) -> T:
    """Wait until ``happened`` returns something true, and return that.

    :param engine: the guest's, whose run must not end meanwhile.
    :param message: text for a failure, or a function that returns it.
    """
    end = time.monotonic() + DEADLINE
    while not (result := happened()):
        assert time.monotonic() < end, message if isinstance(message, str) else message()
        if engine is None:
            time.sleep(_INTERVAL_S)
        else:
            assert engine.wait(_INTERVAL_S) is None, "the guest has ended"
    return result
