# SPDX-License-Identifier: GPL-2.0-or-later
"""CPU quota and freezer of a thread's cgroup, version 1 and 2 and both at once (cgroups(7)).

The sources are Documentation/scheduler/sched-bwc.rst and Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pvtime.host.process import PROC, read_bytes

__all__ = ["CgroupMounts", "CpuQuota", "Throttling"]

_MEMBERSHIP_LENGTH: Final = 1 << 16
_OCTAL: Final = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Throttling:
    """Number and length of the times for which a cgroup's quota kept its threads from running."""

    periods: int
    """Periods in which it was throttled."""
    throttled_ns: int
    """Sum over the CPUs on which it was."""


@dataclass(frozen=True)
class CpuQuota:
    """A cgroup with a quota of CPU time."""

    directory: str
    version: int
    quota_ns: int
    """CPU time in each period."""
    period_ns: int

    def throttling(self) -> Throttling | None:
        """Return what it is now; None: the cgroup has gone."""
        return parse_throttling(read_bytes(f"{self.directory}/cpu.stat") or b"")


def parse_throttling(text: bytes) -> Throttling | None:
    """Parse ``cpu.stat``: its times are ns in version 1 (throttled_time) and us in version 2."""
    figures = {}
    for line in text.splitlines():
        name, _, value = line.partition(b" ")
        if value.strip().isdigit():
            figures[name] = int(value)
    periods = figures.get(b"nr_throttled")
    throttled = figures.get(b"throttled_time", figures.get(b"throttled_usec", 0) * 1000)
    return None if periods is None else Throttling(periods, throttled)


class CgroupMounts:
    """The hierarchies of this host, as far as they are mounted in this process's mount namespace."""

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc
        self._mounts: dict[str, tuple[str, str]] = {}
        """By controller, or "" for version 2: the mount point, and the cgroup that is its root."""
        for line in _lines(proc / "self/mountinfo", 1 << 20):
            fields, _, special = line.partition(" - ")
            words, kind = fields.split(), special.split()
            if len(words) < 5 or len(kind) < 3:
                continue
            root, point = _unescape(words[3]), _unescape(words[4])
            if kind[0] == "cgroup2":
                self._mounts.setdefault("", (point, root))
            elif kind[0] == "cgroup":
                for controller in kind[2].split(","):
                    self._mounts.setdefault(controller, (point, root))

    def membership(self, pid: int, tid: int | None = None) -> dict[str, str]:
        """Return the cgroup of a thread, by controller; "" is version 2."""
        path = f"{self._proc}/{pid}/cgroup" if tid is None else f"{self._proc}/{pid}/task/{tid}/cgroup"
        found = {}
        for line in _lines(path, _MEMBERSHIP_LENGTH):
            _, _, rest = line.partition(":")
            controllers, _, group = rest.partition(":")
            for controller in controllers.split(","):
                found[controller] = group
        return found

    def quotas(self, membership: dict[str, str]) -> list[CpuQuota]:
        """Return the quotas that limit a thread: its cgroup's and those of the cgroups above."""
        found = []
        for controller, version in (("cpu", 1), ("", 2)):
            for directory in self._upwards(membership, controller):
                limit = _quota_v1(directory) if version == 1 else _quota_v2(directory)
                if limit:
                    found.append(CpuQuota(directory, version, *limit))
        return found

    def frozen(self, membership: dict[str, str]) -> bool:
        """Whether a thread's cgroup, or one above it, is frozen."""
        for directory in self._upwards(membership, "freezer")[:1]:
            if (read_bytes(f"{directory}/freezer.state") or b"").strip() == b"FROZEN":
                return True
        return any(
            b"frozen 1" in (read_bytes(f"{directory}/cgroup.events") or b"").splitlines()
            for directory in self._upwards(membership, "")[:1]
        )

    def _upwards(self, membership: dict[str, str], controller: str) -> list[str]:
        """Return the directories of a cgroup and of those above it, as far as they are mounted here."""
        if controller not in membership or controller not in self._mounts:
            return []
        point, root = self._mounts[controller]
        group = membership[controller]
        if root != "/":
            if group != root and not group.startswith(root + "/"):
                return []  # outside of what this container can see
            group = group[len(root) :]
        parts = [part for part in group.split("/") if part]
        if ".." in parts:
            return []
        return [os.path.join(point, *parts[:depth]) for depth in range(len(parts), -1, -1)]


def _quota_v1(directory: str) -> tuple[int, int] | None:
    quota = (read_bytes(f"{directory}/cpu.cfs_quota_us") or b"").strip()
    period = (read_bytes(f"{directory}/cpu.cfs_period_us") or b"").strip()
    return (int(quota) * 1000, int(period) * 1000) if quota.isdigit() and period.isdigit() else None


def _quota_v2(directory: str) -> tuple[int, int] | None:
    words = (read_bytes(f"{directory}/cpu.max") or b"").split()
    if len(words) != 2 or not (words[0].isdigit() and words[1].isdigit()):
        return None
    return int(words[0]) * 1000, int(words[1]) * 1000


def _unescape(text: str) -> str:
    """Undo the octal escapes of mountinfo."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def _lines(path: str | Path, length: int) -> list[str]:
    return (read_bytes(path, length) or b"").decode("utf-8", "surrogateescape").splitlines()
