# SPDX-License-Identifier: GPL-2.0-or-later
"""Samples of a guest's figures, as the public API has them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Self

from pvtime.report.model import Moment, VcpuRow

if TYPE_CHECKING:
    import pandas

__all__ = ["Sample", "VcpuFigures"]


@dataclass(frozen=True)
class VcpuFigures:
    """Figures of one vCPU, or the difference of two. All times are in ns.

    ``ran``, ``stolen``, ``idle``, ``stopped`` and ``host`` count since the machine's start, exclude each
    other, and add up to :attr:`elapsed`.
    """

    index: int
    """Number of the vCPU, from 0."""
    ran: int
    """Time for which it executed."""
    stolen: int
    """Time for which it was ready to run and did not run."""
    idle: int
    """Time for which it had nothing to run, or was off."""
    stopped: int
    """Time for which the machine was paused or its process stopped."""
    host: int
    """Time for which the host held up its thread otherwise, as in a page fault."""
    loads: int
    """Number of its loads."""
    starts: int
    """Number of the guest's calls of PV_TIME_ST on it."""
    enabled: bool
    """Whether the guest counts stolen time on it."""
    truth: int | None
    """Stolen time as the host knows it since the last PV_TIME_ST; None in a difference where that came
    between."""
    structure: int | None
    """The count in the guest's memory; None where nobody can read it, and as :attr:`truth`."""
    injected: int | None
    """The part of :attr:`truth` that was injected; None as there."""
    guest_steal: int | None
    """The steal of the CPU in the guest's own /proc/stat, in steps of 10 ms; None where the guest was not
    asked."""

    @classmethod
    def of(cls, row: VcpuRow) -> Self:
        """Return the figures of a row of a report."""
        return cls(
            index=row.index,
            ran=row.ran_ns,
            stolen=row.stolen_ns,
            idle=row.idle_ns,
            stopped=row.stopped_ns,
            host=row.host_ns,
            loads=row.loads,
            starts=row.starts,
            enabled=row.enabled,
            truth=row.truth_ns,
            structure=row.structure_ns,
            injected=row.injected_ns,
            guest_steal=row.guest.steal_ns if row.guest is not None else None,
        )

    @property
    def elapsed(self) -> int:
        """The time that has passed, in ns: the sum of the five columns."""
        return self.ran + self.stolen + self.idle + self.stopped + self.host

    @property
    def stolen_share(self) -> float:
        """The stolen part of :attr:`elapsed`, from 0 to 1; 0 where no time has passed."""
        return self.stolen / self.elapsed if self.elapsed else 0.0

    def __sub__(self, before: VcpuFigures) -> VcpuFigures:
        """Return the growth of every figure since ``before``."""
        restarted = self.starts != before.starts

        def growth(name: str) -> Any:
            own, other = getattr(self, name), getattr(before, name)
            if own is None or other is None or (restarted and name in _SINCE_START):
                return None
            return own - other

        counted = {field.name: growth(field.name) for field in fields(self) if field.name not in _KEPT}
        return VcpuFigures(index=self.index, enabled=self.enabled, **counted)


_KEPT = ("index", "enabled")
_SINCE_START = ("truth", "structure", "injected")
"""Figures that begin again at PV_TIME_ST."""


@dataclass(frozen=True)
class Sample:
    """Figures of all vCPUs at one moment, or the growth between two: ``after - before``."""

    seconds: float
    """Seconds from the run's start, or between the two."""
    vcpus: tuple[VcpuFigures, ...]
    """Figures by vCPU."""

    @classmethod
    def of(cls, moment: Moment) -> Self:
        """Return the sample of a moment."""
        return cls(moment.elapsed_seconds, tuple(VcpuFigures.of(row) for row in moment.vcpus))

    def __sub__(self, before: Sample) -> Sample:
        """Return the growth since ``before``, a sample of the same guest."""
        vcpus = zip(self.vcpus, before.vcpus, strict=True)
        return Sample(self.seconds - before.seconds, tuple(own - other for own, other in vcpus))

    def to_dict(self) -> dict[str, Any]:
        """Return the sample as a dict: ``seconds``, and ``vcpus``, a list of dicts; for JSON."""
        return {"seconds": self.seconds, "vcpus": [asdict(vcpu) for vcpu in self.vcpus]}

    def rows(self) -> list[dict[str, Any]]:
        """Return a flat dict for each vCPU, with ``seconds`` in it; for CSV."""
        return [{"seconds": self.seconds, **asdict(vcpu)} for vcpu in self.vcpus]

    def to_frame(self) -> pandas.DataFrame:
        """Return :meth:`rows` as a data frame; needs pandas (``pip install pvtime[pandas]``).

        :raises ImportError: pandas is not installed.
        """
        import pandas

        return pandas.DataFrame(self.rows())
