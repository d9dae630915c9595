# SPDX-License-Identifier: GPL-2.0-or-later
"""The interface behind which the engines are."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import astuple
from enum import Enum
from typing import Any, ClassVar, Final

from pvtime.errors import EngineError, PvtimeError, UsageError
from pvtime.inject.schedule import Schedule
from pvtime.machine.dirty import DirtyTracker
from pvtime.machine.layout import Region
from pvtime.machine.memory_map import Access
from pvtime.machine.timer import MAX_HZ, MIN_HZ, NATIVE, CounterRate
from pvtime.records import dataclass

__all__ = [
    "BREAK",
    "COUNTER_FREQUENCY",
    "Ending",
    "Engine",
    "Outcome",
    "VcpuSample",
    "VcpuTimes",
    "counter_rate",
]


BREAK: Final = "break"
"""The engine option for a mistake of stolen time that is made on purpose."""
COUNTER_FREQUENCY: Final = "counter-frequency"
"""The engine option for the frequency of the host's counter, in Hz."""


def counter_rate(options: Mapping[str, str]) -> CounterRate:
    """Return the frequency of the host's counter that engine options ask for.

    :raises UsageError: no counter has it.
    """
    text = options.get(COUNTER_FREQUENCY)
    if text is None:
        return NATIVE
    hz = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(MAX_HZ)) else 0
    if not MIN_HZ <= hz <= MAX_HZ:
        raise UsageError(f"engine option {COUNTER_FREQUENCY}={text}: give {MIN_HZ} to {MAX_HZ}, in Hz")
    return NATIVE if hz == NATIVE.hz else CounterRate(hz)


class Outcome(Enum):
    """The end of a machine's run."""

    POWER_OFF = "power-off"
    """The guest asked for it (PSCI SYSTEM_OFF)."""
    STOPPED = "stopped"
    """We did: :meth:`Engine.stop`."""
    SAVED = "saved"
    """The machine is in a directory now, and is not to run here any more."""
    MIGRATED = "migrated"
    """It runs in another process."""
    PANICKED = "panicked"
    """Its kernel panicked, and a run was ended from outside."""
    NO_USERLAND = "no-userland"
    """The stock userland, which reports when it is up, never did."""
    FAILED = "failed"
    """The engine could not go on: :meth:`Engine.wait` raises the reason."""


class Ending:
    """The end of a run: told by the threads that execute it, waited for by any other."""

    def __init__(self) -> None:
        self.outcome: Outcome | None = None
        """The first that was told; a failure goes before all others."""
        self._error: PvtimeError | None = None
        self._nothing_executes = threading.Event()

    def end(self, outcome: Outcome) -> None:
        """The run is to end, or has ended, in this way."""
        if self.outcome is None:
            self.outcome = outcome

    def fail(self, error: PvtimeError) -> None:
        """The engine cannot go on."""
        if self._error is None:
            self._error = error
        self.outcome = Outcome.FAILED

    def conclude(self) -> None:
        """Nothing executes any more."""
        self._nothing_executes.set()

    def wait(self, timeout: float | None) -> Outcome | None:
        """See :meth:`Engine.wait`."""
        if not self._nothing_executes.wait(timeout):
            return None
        if self._error is not None:
            raise self._error
        return self.outcome


@dataclass(frozen=True)
class VcpuTimes:
    """A vCPU's time, in ns, divided into columns that add up to it: see :class:`VcpuSample`."""

    ran_ns: int
    stolen_ns: int
    idle_ns: int
    stopped_ns: int
    host_ns: int

    @property
    def elapsed_ns(self) -> int:
        """The sum: the time that passed."""
        return sum(astuple(self))

    def __sub__(self, before: VcpuTimes) -> VcpuTimes:
        """Return the growth of each column since ``before``."""
        return VcpuTimes(*(own - other for own, other in zip(astuple(self), astuple(before), strict=True)))


@dataclass(frozen=True)
class VcpuSample:
    """One vCPU's figures, read while it was not running. Times in ns."""

    index: int
    ran_ns: int
    """Time it executed, on the host's CPU, since the machine started."""
    truth_ns: int
    """Time stolen as the host knows it, since the guest last started a count or since the start."""
    structure_ns: int | None
    """``stolen_time`` in the vCPU's structure, as the guest reads it; None: nobody can read it in memory."""
    enabled: bool
    """The guest has called PV_TIME_ST."""
    loads: int
    """Number of loads of the vCPU."""
    injected_ns: int = 0
    """The part of truth that was stolen on purpose."""
    stolen_ns: int = 0
    """Time stolen since the machine started."""
    starts: int = 0
    """Number of counts that the guest has started (PV_TIME_ST)."""
    idle_ns: int = 0
    """Time for which it had nothing to run, or was off, since the machine started."""
    stopped_ns: int = 0
    """Time since the machine started for which nothing of it executed: it was paused, or the process was
    stopped, or the host was suspended. With it all columns since the start add up to the time passed:
    :attr:`elapsed_ns`."""
    host_ns: int = 0
    """Time since the machine started for which its thread was held up by the host, in page faults, files and
    locks, and did not wait for a CPU."""
    fault: str | None = None
    """Why the structure cannot be written: its memory was taken away, or was the guest's to provide."""

    @property
    def times(self) -> VcpuTimes:
        """The time since the machine started, by columns."""
        return VcpuTimes(self.ran_ns, self.stolen_ns, self.idle_ns, self.stopped_ns, self.host_ns)

    @property
    def elapsed_ns(self) -> int:
        """Time since the machine started."""
        return self.times.elapsed_ns

    @property
    def count_ns(self) -> int:
        """:attr:`structure_ns` of a structure that can be read.

        :raises EngineError: it cannot.
        """
        if self.structure_ns is None:
            raise EngineError(f"vCPU {self.index} has no structure that can be read in memory")
        return self.structure_ns


class Engine(ABC):
    """Runs one machine's vCPUs on threads of its own.

    Every method may be called from any thread. The life is: :meth:`start` once, :meth:`wait` and
    :meth:`sample` as often as wanted, :meth:`stop` at the end, in every case.
    """

    name: ClassVar[str]
    state_type: ClassVar[type]
    """Dataclass of the engine's state: fields that :mod:`pvtime.snapshot.codec` can encode."""
    notice: str | None = None
    """A sentence for the user about the machine; None: there is none."""
    mistake: str | None = None
    """The mistake that it makes on purpose (:data:`BREAK`); None: it makes none."""

    def __init__(self) -> None:
        self._ending = Ending()

    @property
    def label(self) -> str:
        """The engine's name as a report has it, which hides no mistake."""
        return self.name if self.mistake is None else f"{self.name} (broken on purpose: {self.mistake})"

    @abstractmethod
    def start(self) -> None:
        """Start executing.

        :raises EngineError: this host cannot run the machine.
        """

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """Wait up to ``timeout`` seconds (None: for ever) for the end; None where it has not come.

        :raises EngineError: the engine could not go on; the message says where the guest was.
        """
        return self._ending.wait(timeout)

    @abstractmethod
    def stop(self) -> None:
        """End the run where it is and return when nothing executes any more; harmless when it has ended."""

    @abstractmethod
    def sample(self) -> list[VcpuSample]:
        """Return every vCPU's figures, each taken while that vCPU is not running. Works after the end too.

        The figures of a paused machine are those of the pause's beginning: its own time is not in them yet.
        """

    @abstractmethod
    def pause(self) -> None:
        """Bring every vCPU to rest until :meth:`resume`; nothing is stolen meanwhile.

        Interrupts are taken in, the guest finds them later. Harmless when paused or ended.
        """

    @abstractmethod
    def resume(self) -> None:
        """Go on after :meth:`pause`; harmless when not paused."""

    @abstractmethod
    def reset(self) -> None:
        """Boot the machine again, as PSCI SYSTEM_RESET does; harmless when it has ended.

        :raises EngineError: it is paused, or has not started.
        """

    @abstractmethod
    def set_steal(self, schedule: Schedule) -> None:
        """Inject steal by another schedule from now on, whose time begins now; harmless when it has ended.

        What was due before is injected until now, and counted once. While the machine is paused, the
        schedule's time begins when it resumes; before :meth:`start`, when it starts. Whether pauses are
        stolen (:attr:`Schedule.pauses`) stays as it was.

        :raises UsageError: the schedule names a vCPU that the machine lacks.
        """

    @abstractmethod
    def check_savable(self) -> None:
        """Check that the machine's state could be saved, as far as this is known before it runs.

        :raises EngineError: :meth:`state` would refuse it, whatever the guest does.
        """

    @abstractmethod
    def state(self) -> Any:
        """Return the state of the paused vCPUs, interrupt controller and stolen time: a :attr:`state_type`.

        :raises EngineError: it is not paused, has ended, or cannot be saved; the message says why.
        """

    @abstractmethod
    def restore(self, state: Any) -> None:
        """Restore a :attr:`state_type`, from which :meth:`start` resumes the guest.

        The machine's memory and devices must have been restored before. The state comes from a file or a
        peer: its types are checked, its values are not.

        :raises SavedStateError: no such machine can be in this state. Stop the engine then.
        :raises EngineError: it has started.
        """

    @abstractmethod
    def start_dirty_log(self) -> DirtyTracker:
        """Return what tells which of the machine's memory changes while it runs.

        :raises EngineError: the engine cannot tell.
        """

    @abstractmethod
    def protect(self, region: Region, access: Access) -> None:
        """Take memory away from the guest, make it read-only, or give it back, while it runs.

        :raises EngineError: the engine cannot do that with this region.
        """

    @abstractmethod
    def set_irq(self, spi: int, level: bool) -> None:
        """Set the level of a shared peripheral interrupt's wire; ``spi`` counts from 0."""
