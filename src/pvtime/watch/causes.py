# SPDX-License-Identifier: GPL-2.0-or-later
"""The figures of ``pvtime who``: causes of the waits of vCPUs, and their times."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from pvtime.host.vms import HostVcpu, HostVm

__all__ = ["CauseKind", "CauseRow", "VcpuCauses", "VmCauses", "WhoResult", "sum_rows"]


class CauseKind(StrEnum):
    """Why a vCPU waited."""

    VM = "another VM"
    PROCESS = "a process"
    KERNEL = "the kernel"
    SIBLING = "its own vCPUs"
    VMM = "its own VMM"
    QUOTA = "its own quota"
    LATENCY = "wake-up latency"
    """The CPU was idle: it was on its way to the thread."""
    UNKNOWN = "not known"


@dataclass(frozen=True)
class CauseRow:
    """A cause and its time."""

    kind: CauseKind
    name: str
    """``qemu:web1``, or a process's name; empty where the kind says all. Printable."""
    pid: int | None
    ns: int


@dataclass(frozen=True)
class VcpuCauses:
    """A vCPU's time in the window, in ns."""

    vcpu: HostVcpu
    elapsed_ns: int
    ran_ns: int
    stolen_ns: int
    blocked_ns: int
    """It slept: the guest was idle, or the VMM handled an exit."""
    stopped_ns: int
    """By a signal, a debugger or the freezer."""
    faults_ns: int
    """The part of :attr:`blocked_ns` in page faults that the host had to resolve: estimated by samples."""
    longest_ns: int
    """The longest wait."""
    rows: tuple[CauseRow, ...]
    """They sum to :attr:`stolen_ns`."""
    run_delay_ns: int
    """The count of the kernel while both counted."""
    missing_ns: int
    """Its part that the trace does not have."""


@dataclass(frozen=True)
class VmCauses:
    """A VM's vCPUs."""

    vm: HostVm
    ended: bool
    frozen_ns: int
    vcpus: tuple[VcpuCauses, ...]

    def rows(self) -> list[CauseRow]:
        """Return the causes of all its vCPUs' waits, the greatest first."""
        return sum_rows(row for vcpu in self.vcpus for row in vcpu.rows)

    @property
    def stolen_ns(self) -> int:
        """Return the stolen time of all its vCPUs."""
        return sum(vcpu.stolen_ns for vcpu in self.vcpus)


@dataclass(frozen=True)
class WhoResult:
    """The window's figures."""

    elapsed_ns: int
    vms: tuple[VmCauses, ...]
    notes: tuple[str, ...]
    """Obstacles, in sentences."""
    begin_ns: int = 0
    """Beginning of the window, in the time of :attr:`spans`."""
    spans: tuple[tuple[int, str, int, int, CauseRow | None], ...] = ()
    """For a picture: thread, activity, begin, end and cause."""


def sum_rows(rows: Iterable[CauseRow]) -> list[CauseRow]:
    """Return one row for each cause, the greatest first."""
    sums: defaultdict[tuple[CauseKind, str, int | None], int] = defaultdict(int)
    for row in rows:
        sums[row.kind, row.name, row.pid] += row.ns
    found = [CauseRow(*key, ns) for key, ns in sums.items() if ns]
    return sorted(found, key=lambda row: (-row.ns, row.kind, row.name, row.pid or 0))
