# SPDX-License-Identifier: GPL-2.0-or-later
"""Descriptions of all machines of a user that run."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from pvtime.errors import PvtimeError
from pvtime.run.control_client import ask
from pvtime.run.control_protocol import InfoRequest, MachineInfo
from pvtime.run.runtime_dir import named_sockets, sweep

__all__ = ["Answer", "call_the_roll"]

TIMEOUT_S: Final = 5.0
"""Default of the time in which a machine must answer: its process may be stopped, or on a busy host."""

THREADS: Final = 16


@dataclass(frozen=True)
class Answer:
    """Answer of a machine."""

    name: str
    info: MachineInfo | None
    error: str | None = None
    """Reason for which there is no answer."""


def call_the_roll(timeout_s: float = TIMEOUT_S, only: Collection[str] | None = None) -> list[Answer]:
    """Ask every machine of the user's for its description; sweep the sockets of those that were killed.

    :param only: names of the machines to ask; None: all.
    :param timeout_s: time in which a machine must answer, in seconds.
    :raises UsageError: the directory of the sockets is not this user's alone.
    """
    sockets = [(name, path) for name, path in named_sockets() if only is None or name in only]
    if not sockets:
        return []
    with ThreadPoolExecutor(min(THREADS, len(sockets))) as pool:
        answers = pool.map(partial(_ask, timeout_s=timeout_s), *zip(*sockets, strict=True))
        return [answer for answer in answers if answer is not None]


def _ask(name: str, path: Path, *, timeout_s: float) -> Answer | None:
    """Return a machine's answer; None: it was killed, or has just ended."""
    try:
        info = ask(path, InfoRequest(), MachineInfo, timeout_s=timeout_s)
    except PvtimeError as error:
        sweep(path)
        return Answer(name, None, str(error)) if path.is_socket() else None
    return Answer(name, replace(info, name=name))
