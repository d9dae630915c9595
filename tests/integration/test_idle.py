# SPDX-License-Identifier: GPL-2.0-or-later
"""An idle vCPU is not stolen from, however busy another one is."""

from __future__ import annotations

from framework.linux import LinuxGuest, boot_linux
from pvtime.images.store import StockImages

BUSY_NS = 1_000_000_000
WINDOWS = 5
"""One must be good: on a busy host wake-ups wait for the engine's threads, which is another matter."""


def lost_by_the_idle_one(guest: LinuxGuest) -> tuple[int, int]:
    """Let vCPU 0 run for a while; return how long it did, and what was stolen from vCPU 1, in ns."""
    before, withheld = guest.engine.sample(), guest.engine._cpu.delay
    after = guest.until(lambda samples: samples[0].ran_ns > before[0].ran_ns + BUSY_NS)
    withheld = guest.engine._cpu.delay - withheld
    busy, idle = (late.ran_ns - early.ran_ns for early, late in zip(before, after, strict=True))
    assert idle < busy // 10, "it is not idle"
    # What the host kept from the engine's thread it kept from the idle one's wake-ups too.
    return busy, after[1].truth_ns - before[1].truth_ns - withheld


def test_an_idle_vcpu_beside_a_busy_one_loses_less_than_one_percent(stock_images: StockImages) -> None:
    with boot_linux(stock_images, 2) as guest:
        guest.ready()
        guest.tell("busy", 1)
        # The busy one ran that long in any case: so much has passed for the idle one too.
        lost = (lost_by_the_idle_one(guest) for _ in range(WINDOWS))
        assert any(stolen < busy // 100 for busy, stolen in lost)
