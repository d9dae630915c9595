# SPDX-License-Identifier: GPL-2.0-or-later
"""The patience with a guest that ends, by its own time, not by that of its host."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from pvtime.engine.base import VcpuSample

__all__ = ["OwnTime", "PowerOffStep", "PowerOffWatch"]


class PowerOffStep(IntEnum):
    """How far a guest has come."""

    ASKED = 0
    ACKNOWLEDGED = 1
    """Its agent has read the command."""
    REPORTED = 2
    """It has sent its final report."""


class OwnTime:
    """Limit of the own time of a guest whose agent runs on vCPU 0, from a moment on.

    Its guest is not to blame for the time in which the host stole that vCPU's CPU or had the machine stopped:
    a stock guest took 9 s to power off beside 16 busy processes, of which 0.3 s were its own. It is for the
    time in which another vCPU of its own had the CPU, though that is stolen from vCPU 0 as well: else a guest
    with many vCPUs that compute would have the host wait. Nor does a pause by the user stop its time: nobody
    waits for a machine that cannot power off.

    :param now: s, by the same clock everywhere.
    :param samples: every vCPU's figures of that time.
    :param limit: s.
    """

    def __init__(self, now: float, samples: Sequence[VcpuSample], limit: float) -> None:
        self._limit = limit
        self.restart(now, samples)

    def restart(self, now: float, samples: Sequence[VcpuSample]) -> None:
        """Count from another moment on."""
        self._began = now
        self._before = samples

    def is_over(self, now: float, samples: Sequence[VcpuSample]) -> bool:
        """Whether the guest has let it pass."""
        grown = [own.times - before.times for own, before in zip(samples, self._before, strict=True)]
        first, others = grown[0], sum(times.ran_ns for times in grown[1:])
        own_s = now - self._began - (first.stopped_ns + max(0, first.stolen_ns - others)) / 1e9
        return own_s >= self._limit


class PowerOffWatch:
    """The own time of a guest that was asked to power off.

    :param own: its time for each step, and from the last one until its power-off.
    """

    def __init__(self, own: OwnTime) -> None:
        self._own = own
        self.step = PowerOffStep.ASKED
        """The last step."""

    def reach(self, step: PowerOffStep, now: float, samples: Sequence[VcpuSample]) -> None:
        """Note a step; each counts once."""
        if step > self.step:
            self.step = step
            self._own.restart(now, samples)

    def is_over(self, now: float, samples: Sequence[VcpuSample]) -> bool:
        """Whether the guest has let its time pass."""
        return self._own.is_over(now, samples)
