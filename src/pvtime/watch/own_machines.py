# SPDX-License-Identifier: GPL-2.0-or-later
"""pvtime's own machines, asked by their control sockets: the structure and the guest beside the truth."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from pvtime.errors import PvtimeError
from pvtime.run.control_client import ask
from pvtime.run.control_protocol import InfoRequest, MachineInfo, StatRequest
from pvtime.run.runtime_dir import named_sockets

__all__ = ["OwnVcpu", "ask_own_machines", "parse_sample"]

TIMEOUT_S: Final = 1.0
THREADS: Final = 64
"""Machines that are asked at once: one that was stopped keeps a thread for as long as the time-out."""


@dataclass(frozen=True)
class OwnVcpu:
    """A vCPU's figures as its machine and its guest have them, in ns; None: not known."""

    machine: str
    pid: int
    index: int
    told: bool
    """The guest has stolen time."""
    truth_ns: int
    structure_ns: int | None
    guest_ns: int | None


def ask_own_machines(timeout_s: float = TIMEOUT_S) -> list[OwnVcpu]:
    """Return the vCPUs of the user's machines that answer; all machines are asked at once.

    :param timeout_s: time in which a machine must give an answer, in seconds.
    """
    try:
        sockets = named_sockets()
    except PvtimeError:
        return []
    if not sockets:
        return []
    with ThreadPoolExecutor(min(THREADS, len(sockets))) as pool:
        answers = pool.map(partial(_ask, timeout_s=timeout_s), [path for _, path in sockets])
        return [vcpu for answer in answers for vcpu in answer]


def _ask(path: Path, *, timeout_s: float) -> list[OwnVcpu]:
    """Return a machine's vCPUs; none where it ends, or is stopped."""
    try:
        info = ask(path, InfoRequest(), MachineInfo, timeout_s=timeout_s)
        sample: dict[str, Any] = ask(path, StatRequest(False), None, timeout_s=timeout_s)
    except PvtimeError:
        return []
    return parse_sample(info.name, info.pid, sample)


def parse_sample(machine: str, pid: int, document: dict[str, Any]) -> list[OwnVcpu]:
    """Return the vCPUs of a sample (docs/report.md); none where it is something else."""
    try:
        return [
            OwnVcpu(
                machine,
                pid,
                int(row["index"]),
                bool(row["enabled"]),
                int(row["truth_ns"]),
                None if row["structure_ns"] is None else int(row["structure_ns"]),
                None if row["guest_error_ns"] is None else int(row["truth_ns"]) + int(row["guest_error_ns"]),
            )
            for row in document["sample"]["vcpus"]
        ]
    except (KeyError, OverflowError, TypeError, ValueError):
        return []
