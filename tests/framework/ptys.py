# SPDX-License-Identifier: GPL-2.0-or-later
"""What is written to a terminal."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TextIO

__all__ = ["written"]


def written(draw: Callable[[TextIO], None]) -> str:
    """Return what ``draw`` writes to a pseudo-terminal.

    The kernel hands the bytes on in a work queue of its own, so that one read returns any part of them. All
    has come when the other end is closed and a read fails.
    """
    master, slave = os.openpty()
    chunks: list[bytes] = []
    reader = threading.Thread(target=_read_all, args=(master, chunks))
    reader.start()
    try:
        with os.fdopen(slave, "w") as file:
            draw(file)
    finally:
        reader.join()
        os.close(master)
    return b"".join(chunks).decode()


def _read_all(master: int, chunks: list[bytes]) -> None:
    while True:
        try:
            chunks.append(os.read(master, 4096))
        except OSError:
            return
