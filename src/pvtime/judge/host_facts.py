# SPDX-License-Identifier: GPL-2.0-or-later
"""Facts of the host that a judgement's reader needs."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Final

__all__ = ["HostFacts", "host_facts", "stat_times"]

HostFacts = dict[str, str | int | float | None]

_CPU_FIELDS: Final = re.compile(
    r"(?:model name|CPU (?:implementer|architecture|variant|part|revision))\s*: (.+)"
)
_MAX_CPUINFO: Final = 8192


def host_facts(since: tuple[int, int] | None, proc: Path = Path("/proc")) -> HostFacts:
    """Return kernel, architecture, CPUs, their kind, load, and the steal that the host itself suffers.

    :param since: :func:`stat_times` when the judgement began.
    """
    return {
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "cpu": _cpu(proc),
        "load": _load(proc),
        "steal_percent": _steal_percent(since, stat_times(proc)),
    }


def stat_times(proc: Path = Path("/proc")) -> tuple[int, int] | None:
    """Return the time stolen from this host, and all time, in ticks of proc_stat(5); None: unknown."""
    try:
        fields = [int(word) for word in (proc / "stat").read_text().split("\n", 1)[0].split()[1:9]]
        return fields[7], sum(fields)
    except (OSError, ValueError, IndexError):
        return None


def _steal_percent(since: tuple[int, int] | None, now: tuple[int, int] | None) -> float | None:
    if since is None or now is None or now[1] <= since[1]:
        return None
    return round(100 * (now[0] - since[0]) / (now[1] - since[1]), 2)


def _cpu(proc: Path) -> str | None:
    """Return the first CPU's model, or on arm64 its MIDR's fields; None: not known."""
    try:
        with (proc / "cpuinfo").open(errors="replace") as file:
            first = file.read(_MAX_CPUINFO).partition("\n\n")[0]
    except OSError:
        return None
    return " ".join(_CPU_FIELDS.findall(first))[:100] or None


def _load(proc: Path) -> float | None:
    try:
        return float((proc / "loadavg").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
