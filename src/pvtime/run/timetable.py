# SPDX-License-Identifier: GPL-2.0-or-later
"""Deadlines of a run: the end of its duration, a save, and the guest's time to power off."""

from __future__ import annotations

import time
from collections.abc import Callable

from pvtime.records import dataclass
from pvtime.run.options import RunOptions

__all__ = ["SessionTimeouts", "Timetable"]


@dataclass(frozen=True)
class SessionTimeouts:
    """Time limits of a session, in s."""

    boot: float = 120.0
    """For the stock userland to report, unless the options say how long. A boot takes 1.5 s on a quiet host;
    25 s were seen on a busy one, and 60 s were too short in a lab there."""
    silence: float = 20.0
    """For the guest's first output on its console, before the likely reasons are told."""
    halt: float = 30.0
    """Without output after a kernel's last line, until the run ends in any case."""
    halt_own: float = 3.0
    """The guest's own time (:class:`~pvtime.run.power_off.OwnTime`) without output after such a line, until
    the run ends, with :attr:`power_off_vcpu` more for each further vCPU. Longer than the second between
    reports of an agent, which tell a guest that has only printed such a line from one that has panicked or
    halted, and the time that such a report takes."""
    power_off: float = 30.0
    """For the guest to power off when asked: 9 s were seen on a host with a load of 16."""
    power_off_own: float = 2.0
    """The guest's own time for each step (:class:`~pvtime.run.power_off.PowerOffWatch`): 0.3 s of those 9 s
    were its own, for all three. In the lab, with a load of 18, the longest took 1.5 s."""
    power_off_vcpu: float = 0.1
    """More of it for each further vCPU: all of them may compute, and the agent runs on one."""
    power_off_look: float = 0.1
    """Between two looks at how much of the guest's own time has passed."""
    power_off_signal: float = 2.0
    """The same as :attr:`power_off` after Ctrl-C or SIGTERM: somebody waits."""
    stat_reply: float = 2.0
    """Until an unanswered request for /proc/stat is repeated."""
    report: float = 30.0
    """For a report of /proc/stat that somebody waits for, in any case."""
    report_own: float = 2.0
    """The guest's own time for it, with :attr:`power_off_vcpu` more for each further vCPU."""


class Timetable:
    """Deadlines of a run that starts now.

    :param agent: the guest has the stock userland, from whose report on the times of ``options`` count.
    :param resumed: that userland is up already.
    :param clock: returns s; all times here are of it.
    """

    def __init__(
        self,
        options: RunOptions,
        *,
        agent: bool,
        resumed: bool,
        timeouts: SessionTimeouts,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options = options
        self._agent = agent
        self._resumed = resumed
        self._timeouts = timeouts
        self._clock = clock
        self.start = clock()
        self.ready_at = self.start if agent and resumed else None
        """Time of userland's first report; None until it has reported."""
        self.silence_at = None if resumed else self.start + timeouts.silence
        """Time at which the guest's silence is told; None: its console has spoken, or that was told."""
        self.halt_ends_at: float | None = None
        """Time at which to end the run of a guest whose kernel has panicked or halted for good; None: it has
        not."""
        self.save_pending = options.save_at is not None
        """A save was asked for and has not begun."""
        self.give_up_at: float | None = None
        """Time at which a guest that was asked to power off is stopped; None: it has not been asked."""

    def now(self) -> float:
        """Return the time."""
        return self._clock()

    def elapsed(self) -> float:
        """Return the seconds since the start."""
        return self._clock() - self.start

    @property
    def boot_seconds(self) -> float | None:
        """From the start to userland; None if it has not reported, or did so before the start."""
        return None if self.ready_at is None or self._resumed else self.ready_at - self.start

    @property
    def save_at(self) -> float | None:
        """Time of the save; None: there is none, it has begun, or userland has not reported yet."""
        if self._options.save_at is None or not self.save_pending:
            return None
        begin = self.ready_at if self._agent else self.start
        return None if begin is None else begin + self._options.save_at.seconds

    @property
    def end_at(self) -> float | None:
        """Time at which the host acts to end the run; None: only the guest or the user ends it."""
        return self._duration_ends_at() if self.give_up_at is None else self.give_up_at

    def limit_power_off(self, seconds: float) -> None:
        """Give the guest so long to power off; an earlier limit stays."""
        until = self._clock() + seconds
        self.give_up_at = until if self.give_up_at is None else min(self.give_up_at, until)

    def _duration_ends_at(self) -> float | None:
        duration, boot = self._options.duration, self._options.boot_timeout
        if self._agent and self.ready_at is None:
            if boot is None and duration is None:
                return None
            return self.start + (self._timeouts.boot if boot is None else boot) + (duration or 0.0)
        if duration is None:
            return None
        return (self.start if self.ready_at is None else self.ready_at) + duration
