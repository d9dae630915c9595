# SPDX-License-Identifier: GPL-2.0-or-later
"""Linux on a machine whose counter has another frequency than the emulated CPU's own: its clock is right."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from framework.linux import LinuxGuest, boot_linux
from pvtime.engine.base import COUNTER_FREQUENCY
from pvtime.images.store import StockImages

HZ = 25_000_000
ENOUGH_NS = 100_000_000
CENTISECOND_NS = 10_000_000
"""The unit of /proc/uptime."""


@dataclass
class Reading:
    """The guest's clock, and the host's before and after it was read. In ns."""

    before: int
    uptime: int
    after: int


def read_clock(guest: LinuxGuest, number: int) -> Reading:
    """Have the guest's shell print its CLOCK_BOOTTIME."""
    before = time.monotonic_ns()
    guest.type(f"read up idle < /proc/uptime; echo up{number}=$up.")
    pattern = re.compile(rf"up{number}=([0-9]+)\.([0-9][0-9])\.\r?\n")
    guest.wait_for_match(pattern)
    after = time.monotonic_ns()
    match = pattern.search(guest.console)
    assert match is not None
    return Reading(before, (int(match[1]) * 100 + int(match[2])) * CENTISECOND_NS, after)


def test_a_linux_guest_at_25_mhz_has_the_right_time_and_ignores_live_physical_time(
    stock_images: StockImages,
) -> None:
    options = {COUNTER_FREQUENCY: str(HZ)}
    with boot_linux(stock_images, 2, "pvtime.shell", options=options, lpt=HZ) as guest:
        guest.ready()
        assert "cp15 timer(s) running at 25.00MHz (phys)" in guest.console
        first = read_clock(guest, 1)
        guest.type("sleep 1; echo slept 1 second.")
        guest.wait_for_match(re.compile(r"\nslept 1 second\.\r?\n"))
        second = read_clock(guest, 2)
        passed = second.uptime - first.uptime
        assert passed - CENTISECOND_NS <= second.after - first.before, "the guest's clock is fast"
        assert passed + CENTISECOND_NS >= second.before - first.after, "the guest's clock is slow"
        assert second.before - first.after >= 1_000_000_000, "the guest's timer is early"
        guest.tell("busy", 2)
        guest.until(lambda samples: all(sample.truth_ns > ENOUGH_NS for sample in samples))
        guest.await_account()
        assert guest.machine.lpt is not None
        assert not guest.machine.lpt.asked
