# SPDX-License-Identifier: GPL-2.0-or-later
"""The figures of a run: what docs/report.md documents."""

from __future__ import annotations

from dataclasses import dataclass

from pvtime.engine.base import Outcome, VcpuSample

__all__ = ["SCHEMA", "Moment", "RunReport", "VcpuRow"]

SCHEMA = 2
"""Version of the JSON report; it grows when a field changes its meaning or goes."""


@dataclass(frozen=True)
class VcpuRow:
    """One vCPU at one moment: host, structure and guest side by side. Times in ns."""

    index: int
    ran_ns: int
    truth_ns: int
    structure_ns: int | None
    """None: nobody can read it in memory."""
    guest_steal_ns: int | None
    """The guest's /proc/stat, in steps of its tick; None where no agent reports it."""
    enabled: bool
    loads: int
    injected_ns: int = 0
    """How much of truth was stolen on purpose."""
    fault: str | None = None
    """Why the structure cannot be written."""

    @classmethod
    def join(cls, sample: VcpuSample, guest_steal_ns: int | None) -> VcpuRow:
        """Put the engine's figures and the guest's beside each other; both are of the same moment."""
        return cls(
            index=sample.index,
            ran_ns=sample.ran_ns,
            truth_ns=sample.truth_ns,
            structure_ns=sample.structure_ns,
            guest_steal_ns=guest_steal_ns,
            enabled=sample.enabled,
            loads=sample.loads,
            injected_ns=sample.injected_ns,
            fault=sample.fault,
        )

    @property
    def natural_ns(self) -> int:
        """What the host took of itself."""
        return self.truth_ns - self.injected_ns

    @property
    def error_ns(self) -> int | None:
        """What the structure says too much; 0 by the first invariant of the design."""
        return None if self.structure_ns is None else self.structure_ns - self.truth_ns

    @property
    def guest_error_ns(self) -> int | None:
        """What the guest's /proc/stat says too much; within its tick, when all is well."""
        return None if self.guest_steal_ns is None else self.guest_steal_ns - self.truth_ns


@dataclass(frozen=True)
class Moment:
    """Every vCPU's row, all of one moment, ``elapsed_seconds`` after the start."""

    elapsed_seconds: float
    vcpus: tuple[VcpuRow, ...]
    stealing: bool = False
    """Something may be stolen on purpose."""
    before_ns: tuple[int, ...] = ()
    """Each vCPU's truth at the start, where the machine ran elsewhere before."""

    def stolen_here_ns(self, row: VcpuRow) -> int:
        """Return what of a row's truth was stolen since the start; all of it where the guest counts anew."""
        before = self.before_ns[row.index] if self.before_ns else 0
        return row.truth_ns - before if row.truth_ns >= before else row.truth_ns

    @property
    def from_guest(self) -> bool:
        """Whether the guest's own figures are part of it."""
        return any(row.guest_steal_ns is not None for row in self.vcpus)


@dataclass(frozen=True)
class RunReport:
    """A run, after its end."""

    engine: str
    placement: str
    kernel: str | None
    """Release as the guest printed it; None where it printed none."""
    boot_seconds: float | None
    """Start to userland; None where no agent told."""
    elapsed_seconds: float
    """Start to the end."""
    outcome: Outcome
    vcpus: tuple[VcpuRow, ...]
    schema: int = SCHEMA
