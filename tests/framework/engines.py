# SPDX-License-Identifier: GPL-2.0-or-later
"""The engines that behavioural tests run on, and what their vCPUs wait for on the host."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pvtime.engine.base import Engine
from pvtime.engine.registry import ENGINES
from pvtime.host.process import kvm_run_fd
from pvtime.inject.schedule import NOTHING, Schedule
from pvtime.machine.machine import Machine
from pvtime.steal.run_delay import Schedstat

__all__ = ["CHOICES", "Choice", "Host", "host_of"]

PINNED: Final = 0
"""The CPU that vCPUs share."""


@dataclass(frozen=True)
class Choice:
    """An engine, as ``--engine`` names it, with its options: what a test of every engine is given."""

    name: str
    options: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join([self.name, *(f"{key}={value}" for key, value in self.options.items())])

    def build(self, machine: Machine, steal: Schedule = NOTHING) -> Engine:
        """Make the engine of a machine."""
        return self.build_with(machine, {}, steal)

    def build_with(self, machine: Machine, options: Mapping[str, str], steal: Schedule = NOTHING) -> Engine:
        """Make the engine of a machine, with more options."""
        (kind,) = (kind for kind in ENGINES if kind.name == self.name)
        return kind.build(machine, {**self.options, **options}, steal)


CHOICES: Final = {
    "unicorn": [Choice("unicorn", {"internals": "on"}), Choice("unicorn", {"internals": "off"})],
    "kvm": [Choice("kvm")],
}
"""What each value of pytest's ``--engine`` runs the behavioural tests on."""


class Host(ABC):
    """What the host knows of a started engine's vCPUs, read without bringing one out of the guest."""

    @abstractmethod
    def share_one_cpu(self) -> None:
        """Have all vCPUs run on one CPU from now on."""

    @abstractmethod
    def run_delay(self, index: int) -> int:
        """Return how long, in ns, the vCPU has waited for a CPU."""

    @abstractmethod
    def asleep(self, index: int) -> bool:
        """Whether the vCPU sleeps in the guest or is off: nobody steals from it until it is woken."""


class ThreadHost(Host):
    """Of an engine with a thread for each vCPU: the scheduler's own figures."""

    def __init__(self) -> None:
        self._threads = {
            int(thread.name.removeprefix("pvtime-vcpu")): thread
            for thread in threading.enumerate()
            if thread.name.startswith("pvtime-vcpu")
        }

    def _tid(self, index: int) -> int:
        tid = self._threads[index].native_id
        assert tid is not None, "it has not started"
        return tid

    def share_one_cpu(self) -> None:
        """See :meth:`Host.share_one_cpu`."""
        for index in self._threads:
            os.sched_setaffinity(self._tid(index), {PINNED})

    def run_delay(self, index: int) -> int:
        """See :meth:`Host.run_delay`."""
        schedstat = Schedstat(self._tid(index))
        try:
            return schedstat.run_delay()
        finally:
            schedstat.close()

    def asleep(self, index: int) -> bool:
        """See :meth:`Host.asleep`: in KVM_RUN. A thread that waits for Python's lock is asleep as well."""
        return kvm_run_fd(Path(f"/proc/self/task/{self._tid(index)}/syscall").read_bytes()) is not None


class TurnHost(Host):
    """Of the embedded engine, whose vCPUs share one thread by nature."""

    def __init__(self, engine: Engine) -> None:
        from pvtime.engine.unicorn.engine import UnicornEngine

        assert isinstance(engine, UnicornEngine)
        self._engine = engine

    def share_one_cpu(self) -> None:
        """See :meth:`Host.share_one_cpu`: they do."""

    def run_delay(self, index: int) -> int:
        """See :meth:`Host.run_delay`."""
        return self._engine.run_delays()[index]

    def asleep(self, index: int) -> bool:
        """See :meth:`Host.asleep`."""
        from pvtime.engine.unicorn.vcpu import SchedState

        return self._engine.run_states()[index] in (SchedState.IDLE, SchedState.OFF)


def host_of(engine: Engine) -> Host:
    """Return what the host knows of an engine that has started."""
    return ThreadHost() if engine.name == "kvm" else TurnHost(engine)
