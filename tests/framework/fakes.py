# SPDX-License-Identifier: GPL-2.0-or-later
"""An engine without a guest: tests say what happens in it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

from pvtime.engine.base import Engine, Outcome, VcpuSample
from pvtime.errors import EngineError
from pvtime.inject.schedule import Schedule
from pvtime.machine.dirty import DirtyTracker
from pvtime.machine.layout import Region
from pvtime.machine.memory_map import Access

__all__ = ["FakeEngine", "sample"]


def sample(index: int = 0, truth_ns: int = 0) -> VcpuSample:
    """Return a vCPU's figures, with structure and truth alike."""
    return VcpuSample(index, 1_000_000_000, truth_ns, truth_ns, enabled=True, loads=7)


@dataclass(frozen=True)
class FakeState:
    """State of an engine that has none."""


class FakeEngine(Engine):
    """Runs nothing. Each sample has one ns more stolen than the last: so moments can be told apart."""

    name = "fake"
    state_type = FakeState

    def __init__(self, vcpus: int = 2) -> None:
        super().__init__()
        self.vcpus = vcpus
        self.samples = 0
        self.resets = 0
        self.schedules: list[Schedule] = []
        self.started = False
        self.stopped = False
        self._over = threading.Event()
        self._outcome: Outcome | None = None
        self._error: Exception | None = None

    @property
    def over(self) -> bool:
        """Whether :meth:`wait` returns at once."""
        return self._over.is_set()

    def start(self) -> None:
        """Note that it was."""
        self.started = True

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """Wait for :meth:`stop`, :meth:`power_off` or :meth:`fail`."""
        if not self._over.wait(timeout):
            return None
        if self._error:
            raise self._error
        return self._outcome

    def stop(self) -> None:
        """End."""
        self.stopped = True
        self._end(Outcome.STOPPED)

    def power_off(self) -> None:
        """Be a guest that powers off."""
        self._end(Outcome.POWER_OFF)

    def fail(self, error: Exception | None = None) -> None:
        """Be an engine that cannot go on."""
        self._error = error or EngineError("vCPU 0 stopped at 0xffff0000: no such instruction")
        self._end(Outcome.FAILED)

    def _end(self, outcome: Outcome) -> None:
        if self._outcome is None:
            self._outcome = outcome
        self._over.set()

    def sample(self) -> list[VcpuSample]:
        """Return new figures."""
        self.samples += 1
        return [replace(sample(index), truth_ns=self.samples) for index in range(self.vcpus)]

    def pause(self) -> None:
        """Do nothing: there is nothing to pause."""

    def resume(self) -> None:
        """Do nothing either."""

    def reset(self) -> None:
        """Note that it was."""
        self.resets += 1

    def set_steal(self, schedule: Schedule) -> None:
        """Note the schedule."""
        schedule.check_vcpus(self.vcpus)
        self.schedules.append(schedule)

    def check_savable(self) -> None:
        """Find nothing against it, though :meth:`state` will."""

    def state(self) -> FakeState:
        """Refuse: there is nothing to save."""
        raise EngineError("no state")

    def restore(self, state: FakeState) -> None:
        """Refuse: nothing was saved."""
        raise EngineError(f"no state with {state}")

    def start_dirty_log(self) -> DirtyTracker:
        """Refuse: there is no memory."""
        raise EngineError("no memory")

    def protect(self, region: Region, access: Access) -> None:
        """Refuse: there is no memory."""
        raise EngineError(f"{region}: no memory")

    def set_irq(self, spi: int, level: bool) -> None:
        """Do nothing: there is no interrupt controller."""
