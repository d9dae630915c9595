# SPDX-License-Identifier: GPL-2.0-or-later
"""One vCPU of the embedded engine."""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field
from enum import Enum

from pvtime.engine.base import VcpuSample
from pvtime.engine.unicorn.context import Context
from pvtime.inject.hold import Hold
from pvtime.inject.schedule import PendingSteal
from pvtime.machine.timer import VcpuTimer
from pvtime.steal.account import Account, GuestUse
from pvtime.steal.run_delay import RunDelay

__all__ = ["SchedState", "UnicornVcpu"]


class SchedState(Enum):
    """The state of a vCPU, as the scheduler sees it."""

    OFF = "off"
    IDLE = "idle"
    """It executed WFI, and no interrupt is pending for it."""
    RUNNABLE = "runnable"
    """It runs, or waits for the engine: then it is stolen from."""


@dataclass(eq=False, repr=False)
class UnicornVcpu:
    """State, figures and parts of one vCPU. Times in ns."""

    index: int
    account: Account
    timer: VcpuTimer
    run_delay: RunDelay = field(default_factory=RunDelay)
    state: SchedState = SchedState.OFF
    context: Context = None
    """The registers of a vCPU that is not on the CPU; None: it begins at :attr:`entry`."""
    entry: tuple[int, int] = (0, 0)
    """PC and X0 of a vCPU that was switched on and has not run yet."""
    irq: bool = False
    """The level of its IRQ input."""
    ran_ns: int = 0
    idle_ns: int = 0
    """The time for which it was idle or off, until :attr:`idle_since`."""
    idle_since: int = 0
    """The time since which it is idle or off, where it is."""
    stopped_ns: int = 0
    """The time for which nothing executed: the machine was paused, the process or the host was stopped."""
    host_ns: int = 0
    """The time for which the host held up the thread that ran it, other than by its scheduler."""
    pauses_steal: bool = False
    """Time for which nothing executed is stolen time, not :attr:`stopped_ns`."""
    vruntime_ns: int = 0
    """The figure that the scheduler compares: time run, adjusted at each wake-up."""
    ran_until: int = 0
    """The time at which it last left the CPU: no wait begins before that."""
    spins: bool = False
    """It waited for another vCPU, in a loop, when its last slice ended."""
    loads: int = 0
    pending_steal: InitVar[PendingSteal | None] = None
    hold: Hold = field(init=False)
    held: bool = False
    """The scheduler passes it over, on purpose."""

    def __post_init__(self, pending_steal: PendingSteal | None) -> None:
        self.hold = Hold(pending_steal or PendingSteal([]), self.account.inject)

    def close_segment(self, now: int) -> None:
        """Account for what it does until ``now``, where that is to wait, or to be idle or off."""
        if self.run_delay.waiting:
            self.run_delay.settle(now)
        elif self._idles:
            self.idle_ns += now - self.idle_since
            self.idle_since = now

    def stop(self, ns: int) -> None:
        """Account for a time in which nothing executed."""
        if self.pauses_steal and self.state is not SchedState.OFF:
            self.run_delay.add(ns)
            self.account.inject(ns)
        else:
            self.stopped_ns += ns

    def leave_out(self, ns: int, now: int, *, running: bool) -> None:
        """Account for a stop of ``ns`` that was not noticed before it was over, at ``now`` or earlier.

        It may have woken since: then the stop is in what it did before.
        """
        if not running:
            since = self.run_delay.waiting_since
            ns = min(ns, now - (self.idle_since if since is None else since))
            if since is None:
                self.idle_since += ns
            else:
                self.run_delay.wait(since + ns)
        self.hold.resume(ns)
        self.stop(ns)

    def sample(self, now: int) -> VcpuSample:
        """Return the figures at ``now``, with the structure brought up to date as a load would."""
        run_delay = self.run_delay.read(now)
        self.hold.settle_until(now, self.run_delay.waiting_since)
        self.account.update_stolen_time(run_delay)
        return VcpuSample(
            index=self.index,
            ran_ns=self.ran_ns,
            stolen_ns=run_delay,
            starts=self.account.starts,
            idle_ns=self.idle_ns + (now - self.idle_since if self._idles else 0),
            stopped_ns=self.stopped_ns,
            host_ns=self.host_ns,
            truth_ns=self.account.truth(run_delay),
            structure_ns=self.account.structure(),
            enabled=self.account.use is GuestUse.ENABLED,
            loads=self.loads,
            injected_ns=self.account.injected_ns,
            fault=self.account.fault,
        )

    @property
    def _idles(self) -> bool:
        return self.state is not SchedState.RUNNABLE
