# SPDX-License-Identifier: GPL-2.0-or-later
"""Events of a run: its log, and what is found in the guest's console output and in the figures."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from enum import Enum
from typing import Any, Final

from pvtime.engine.base import VcpuSample
from pvtime.records import dataclass
from pvtime.report.console import LineBuffer

__all__ = ["EventKind", "EventLog", "RunEvent", "console_events", "start_events"]

LOG_LENGTH: Final = 10_000
"""Events that are kept: a guest may print without end what looks like one."""
TEXT_LENGTH: Final = 200
"""Characters of a line of the console that an event has."""


class EventKind(Enum):
    """Kind of an event."""

    USERLAND = "userland"
    """The stock userland has reported."""
    PV_TIME_ST = "pv-time-st"
    """The guest has called PV_TIME_ST on a vCPU; seen at the next figures."""
    CPU_ON = "cpu-on"
    """A secondary CPU has booted, by the guest's console."""
    CPU_OFF = "cpu-off"
    """A CPU was taken down, by the guest's console."""
    SOFT_LOCKUP = "soft-lockup"
    HARD_LOCKUP = "hard-lockup"
    RCU_STALL = "rcu-stall"
    HUNG_TASK = "hung-task"
    PANIC = "panic"
    STEAL = "steal"
    """The schedule of injected steal has changed."""
    PAUSED = "paused"
    RESUMED = "resumed"
    RESET = "reset"
    """The machine was reset from outside."""
    SAVED = "saved"
    """The machine was saved, and runs on."""
    ENDED = "ended"
    """The run has ended: the outcome."""


@dataclass(frozen=True)
class RunEvent:
    """An event of a run."""

    elapsed_seconds: float
    """From the run's start to when it was noticed."""
    kind: EventKind
    text: str
    """The guest's line, or words for people."""
    vcpu: int | None = None

    def document(self) -> dict[str, Any]:
        """Return the event for JSON."""
        return asdict(self) | {"kind": self.kind.value}


class EventLog:
    """The last events of a run, from its start to its end. For any thread."""

    def __init__(self, length: int = LOG_LENGTH) -> None:
        self._events: deque[RunEvent] = deque(maxlen=length)
        self._count = 0
        self._closed = False
        self._changed = threading.Condition()
        self.observers: list[Callable[[RunEvent], object]] = []
        """Called with each event, from the thread that logs it."""

    @property
    def closed(self) -> bool:
        """Whether no more events come."""
        return self._closed

    @property
    def count(self) -> int:
        """Number of the events since the start."""
        return self._count

    def add(self, event: RunEvent) -> None:
        """Log an event."""
        with self._changed:
            self._events.append(event)
            self._count += 1
            self._changed.notify_all()
        for observer in self.observers:
            observer(event)

    def close(self) -> None:
        """Note that no more events come."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def read(self, position: int, timeout: float | None = 0.0) -> tuple[list[RunEvent], int]:
        """Return the events from number ``position`` on, as far as they are kept, and the next number.

        :param timeout: seconds to wait for one; None: until the log's end.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._count > position or self._closed, timeout)
            new = min(self._count - position, len(self._events))
            return list(self._events)[len(self._events) - new :], self._count


_CONSOLE: Final = (
    (r"BUG: soft lockup - CPU#(\d{1,4})", EventKind.SOFT_LOCKUP),
    (r"detected hard LOCKUP on cpu (\d{1,4})", EventKind.HARD_LOCKUP),
    (r"rcu: INFO: \S+ (?:self-)?detected (?:expedited )?stalls?", EventKind.RCU_STALL),
    (r"INFO: task .{1,80} blocked for more than \d+ seconds", EventKind.HUNG_TASK),
    (r"\bCPU(\d{1,4}): Booted secondary processor", EventKind.CPU_ON),
    (r"\bpsci: CPU(\d{1,4}) killed", EventKind.CPU_OFF),
    (r"Kernel panic - not syncing", EventKind.PANIC),
)
"""Messages of kernel/watchdog.c, kernel/watchdog_hld.c, kernel/rcu/tree_stall.h, kernel/hung_task.c,
arch/arm64/kernel/smp.c, arch/arm64/kernel/psci.c and kernel/panic.c, Linux 6.1."""


def console_events(lines: LineBuffer, data: bytes) -> Iterator[tuple[EventKind, str, int | None]]:
    """Yield kind, text and vCPU of each event in the lines that ``data`` completes.

    Linux numbers CPUs as the device tree does, so they are the vCPUs' numbers.
    """
    for line in lines.feed(data):
        for pattern, kind in _CONSOLE:
            if match := re.search(pattern, line):
                yield kind, line.strip()[:TEXT_LENGTH], int(match[1]) if match.re.groups else None
                break


def start_events(
    before: dict[int, int], samples: Sequence[VcpuSample]
) -> Iterator[tuple[EventKind, str, int | None]]:
    """Yield an event for each vCPU that has called PV_TIME_ST since ``before``, and bring that up to date.

    :param before: the number of calls, by vCPU.
    """
    for sample in samples:
        if sample.starts > before.get(sample.index, 0):
            yield EventKind.PV_TIME_ST, f"vCPU {sample.index} counts stolen time", sample.index
        before[sample.index] = sample.starts
