# SPDX-License-Identifier: GPL-2.0-or-later
"""What ``pvtime who`` reads beside its trace."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from pvtime.host.cgroups import CpuQuota, Throttling
from pvtime.watch.who import QUOTA_READ_NS, read_quota


@dataclass(frozen=True)
class SlowQuota(CpuQuota):
    """A quota whose count is read in the times that are given, and grows by one at each reading."""

    delays: list[int] = field(default_factory=list)
    clock: list[int] = field(default_factory=lambda: [0, 0])

    def throttling(self) -> Throttling | None:
        """Take the next time."""
        self.clock[1] += 1
        self.clock[0] += self.delays.pop(0)
        return Throttling(self.clock[1], self.clock[1])


@pytest.mark.parametrize(
    ("delays", "readings"),
    [([5], 1), ([QUOTA_READ_NS, 5, 5], 2), ([QUOTA_READ_NS] * 20, 8)],
    ids=["at once", "late once", "always late"],
)
def test_a_count_that_was_read_late_is_read_again(delays: list[int], readings: int) -> None:
    # What was throttled between the count and its time was lost: it was in no increment's time.
    quota = SlowQuota("/cgroup", 2, 1, 10, delays=list(delays))
    throttling, read_at = read_quota(quota, lambda: quota.clock[0])
    assert throttling == Throttling(readings, readings)
    assert read_at == sum(delays[:readings])
