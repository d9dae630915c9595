# SPDX-License-Identifier: GPL-2.0-or-later
"""Join the engine's figures with the guest's reports, and keep what later reports are compared with.

The last report of the stock userland comes after it has woken every CPU, which repairs what a guest has
missed (a CPU without a tick accounts no steal). So the worst difference of all reports is kept, too.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from pvtime.engine.base import VcpuSample
from pvtime.records import dataclass
from pvtime.report import units
from pvtime.report.model import Moment, Reading, VcpuRow
from pvtime.userland.protocol import CpuTimes, StatReport

__all__ = ["Figures"]


@dataclass
class GuestHistory:
    """A vCPU's figures so far, by its reports. Times in ns."""

    starts: int | None = None
    """Number of PV_TIME_STs from whose last on guest and truth have been comparable; None: that of the next
    report."""
    times: CpuTimes | None = None
    """The guest's figures in this kernel's last report."""
    offset_ns: int = 0
    """The guest's steal at the beginning of the truth."""
    lowest_ns: int | None = None
    highest_ns: int | None = None
    falls: int = 0
    fell_ns: int = 0


class Figures:
    """Makes the rows of a run, one moment after the other. Any thread may join samples without a report.

    :param stealing: there is a schedule of time to steal on purpose.
    :param tell: takes a line for the user, to be shown at once.
    """

    def __init__(self, *, stealing: bool, tell: Callable[[str], object]) -> None:
        self._stealing = stealing
        self._tell = tell
        self._begin: Reading | None = None
        self._histories: dict[int, GuestHistory] = {}
        self._lock = threading.Lock()
        self._untold: deque[str] = deque()

    def resume(self, samples: Sequence[VcpuSample]) -> None:
        """Take the figures that a saved or migrated machine starts with."""
        for sample in samples:
            # Where guest and truth began is not known if the guest had called PV_TIME_ST again before.
            self._history(sample.index).starts = min(sample.starts, 1)
        self._begin = Reading(0.0, tuple(self._row(sample, None) for sample in samples))

    def inject(self) -> None:
        """Note that there is a schedule of time to steal from now on."""
        self._stealing = True

    def start_kernel(self) -> None:
        """Forget the last reports: they were another kernel's, and the columns of this one began at 0."""
        with self._lock:
            self._begin = None
            for history in self._histories.values():
                history.times = None
                history.offset_ns = 0
                history.starts = None

    def join(
        self, elapsed_seconds: float, samples: Sequence[VcpuSample], report: StatReport | None
    ) -> Moment:
        """Join samples and the report that has arrived when they were taken; None: there was none."""
        with self._lock:
            rows = tuple(
                self._row(sample, report.cpus.get(sample.index) if report else None) for sample in samples
            )
            if report is not None and not (self._begin and self._begin.from_guest):
                self._begin = Reading(elapsed_seconds, rows)
            moment = Moment(elapsed_seconds, rows, self._stealing, self._begin)
        # Without the lock: a terminal that is blocked must not keep others from the figures.
        while report is not None and self._untold:
            self._tell(self._untold.popleft())
        return moment

    def _history(self, index: int) -> GuestHistory:
        return self._histories.setdefault(index, GuestHistory())

    def _row(self, sample: VcpuSample, guest: CpuTimes | None) -> VcpuRow:
        history = self._history(sample.index)
        error = None
        if guest is not None:
            if self._look_for_fall(sample.index, history, guest):
                # Linux 6.1 adds the fall of its clock to the column, as a u64: both begin at 0 now.
                history.offset_ns = 0
            elif history.starts not in (None, sample.starts):
                history.offset_ns = guest.steal_ns - sample.truth_ns
            history.times, history.starts = guest, sample.starts
            if sample.enabled:  # what a guest was not told is no error of its figure
                error = guest.steal_ns - history.offset_ns - sample.truth_ns
                history.lowest_ns = error if history.lowest_ns is None else min(error, history.lowest_ns)
                history.highest_ns = error if history.highest_ns is None else max(error, history.highest_ns)
        return VcpuRow(
            **vars(sample),
            guest=guest,
            guest_error_ns=error,
            lowest_guest_error_ns=history.lowest_ns,
            highest_guest_error_ns=history.highest_ns,
            guest_steal_falls=history.falls,
            guest_steal_fell_ns=history.fell_ns,
        )

    def _look_for_fall(self, index: int, history: GuestHistory, times: CpuTimes) -> bool:
        """Count and tell a steal column that has fallen since the last report; return whether it has."""
        if history.times is None or times.steal_ns >= history.times.steal_ns:
            return False
        before, after = history.times.steal_ns, times.steal_ns
        history.falls += 1
        history.fell_ns += before - after
        if history.falls == 1:
            self._untold.append(
                f"vCPU {index}: the steal in the guest's /proc/stat ran backwards, from {units.time(before)} "
                f"to {units.time(after)}: a program that subtracts two readings shows nonsense or fails"
            )
        return True
