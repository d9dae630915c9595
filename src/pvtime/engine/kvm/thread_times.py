# SPDX-License-Identifier: GPL-2.0-or-later
"""The time of a vCPU's thread, divided: run, stolen, idle in a WFI, stopped, held up by the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pvtime.steal.run_delay import ThreadClock

__all__ = ["ProcessStops", "ThreadTimes"]

STOP_NS: Final = 100_000_000
"""The least stop of the process that is told from a thread that the interpreter's lock holds up."""


class ProcessStops:
    """Notices that the whole process was stopped: by SIGSTOP, the freezer or a debugger.

    A stopped vCPU's thread cannot tell that from an access that took long. But a thread that sleeps with a
    timeout wakes late then, and has not waited for a CPU.

    :param clock: attached by the thread that calls :meth:`watch`.
    """

    def __init__(self, clock: ThreadClock | None = None) -> None:
        self.clock = clock or ThreadClock()
        self.count = 0
        """The number of stops so far. Read by any thread."""

    def watch(self, wait: Callable[[float], object], timeout: float) -> None:
        """Call ``wait(timeout)``, which returns within ``timeout`` seconds."""
        then, delay_before, _ = self.clock.read()
        wait(timeout)
        now, delay, _ = self.clock.read()
        if now - then - (delay - delay_before) - timeout * 1e9 >= STOP_NS:
            self.count += 1


class ThreadTimes:
    """The figures of one vCPU since its thread started, in ns. Used by that thread alone.

    :param halt_wait: returns the time for which KVM has kept the vCPU waiting in WFIs; None: this KVM does
        not tell, and all that is not explained is taken for it.
    """

    def __init__(
        self, stops: ProcessStops, halt_wait: Callable[[], int] | None, clock: ThreadClock | None = None
    ) -> None:
        self._stops = stops
        self._halt_wait = halt_wait
        self._clock = clock or ThreadClock()
        self._accounted = (0, 0, 0)
        self._halted = self._injected = self._stop_count = 0
        self._was_off = True
        self.ran_ns = self.stolen_ns = self.idle_ns = self.stopped_ns = self.host_ns = 0

    def attach(self) -> None:
        """Measure the calling thread, from now on.

        :raises EngineError: the host keeps no scheduler statistics.
        """
        self._clock.attach()
        self._accounted = self._clock.read()
        self._stop_count = self._stops.count

    def account(self, *, off: bool, injected_ns: int) -> int:
        """Account for the time until now; return how much of it the process, or the host, was stopped.

        :param off: the vCPU is switched off: what its thread waits for a CPU then is not stolen from it.
        :param injected_ns: all that was stolen on purpose so far: the thread has slept for it.
        """
        before, self._accounted = self._accounted, self._clock.read()
        elapsed, stolen, on_cpu = (new - old for new, old in zip(self._accounted, before, strict=True))
        held, self._injected = injected_ns - self._injected, injected_ns
        rest = max(0, elapsed - stolen - on_cpu - held)
        halted = rest if self._halt_wait is None else self._newly_halted()
        idle = rest if off or self._was_off else min(rest, halted)
        rest -= idle
        if off and self._was_off:
            idle, stolen = idle + stolen, 0
        stopped = rest if self._stopped() and rest >= STOP_NS else 0
        self._was_off = off
        self.ran_ns += elapsed - stolen - held - idle - rest
        self.stolen_ns += stolen + held
        self.idle_ns += idle
        self.host_ns += rest - stopped
        return stopped + self._clock.newly_suspended()

    def stop(self, ns: int, *, stolen: bool) -> None:
        """Account for a time in which nothing executed; ``stolen``: it was also injected."""
        if stolen:
            self.stolen_ns += ns
            self._injected += ns
        else:
            self.stopped_ns += ns

    def resume(self) -> int:
        """Leave the time since :meth:`account` out, for which the vCPU was paused; return it."""
        before, self._accounted = self._accounted[0], self._clock.read()
        self._newly_halted()
        self._stopped()
        return self._accounted[0] - before

    def close(self) -> None:
        """Close the thread's statistics."""
        self._clock.close()

    def _newly_halted(self) -> int:
        if self._halt_wait is None:
            return 0
        before, self._halted = self._halted, self._halt_wait()
        return self._halted - before

    def _stopped(self) -> bool:
        """Whether the process has been stopped since the last call."""
        before, self._stop_count = self._stop_count, self._stops.count
        return self._stop_count != before
