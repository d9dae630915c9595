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


@dataclass(eq=False)
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
    vruntime_ns: int = 0
    """The figure that the scheduler compares: time run, adjusted at each wake-up."""
    ran_until: int = 0
    """The time at which it last left the CPU: no wait begins before that."""
    loads: int = 0
    pending_steal: InitVar[PendingSteal | None] = None
    hold: Hold = field(init=False)
    held: bool = False
    """The scheduler passes it over, on purpose."""

    def __post_init__(self, pending_steal: PendingSteal | None) -> None:
        self.hold = Hold(pending_steal or PendingSteal([]), self.account.inject)

    def sample(self, now: int) -> VcpuSample:
        """Return the figures at ``now``, with the structure brought up to date as a load would."""
        run_delay = self.run_delay.read(now)
        self.hold.settle_until(now, self.run_delay.waiting_since)
        self.account.update_stolen_time(run_delay)
        return VcpuSample(
            index=self.index,
            ran_ns=self.ran_ns,
            truth_ns=self.account.truth(run_delay),
            structure_ns=self.account.structure(),
            enabled=self.account.use is GuestUse.ENABLED,
            loads=self.loads,
            injected_ns=self.account.injected_ns,
            fault=self.account.fault,
        )
