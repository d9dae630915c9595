# SPDX-License-Identifier: GPL-2.0-or-later
"""A real kernel is starved until its watchdog complains, and its steal column says who is to blame."""

from __future__ import annotations

from framework.linux import TICK_NS, boot_linux
from pvtime.images.store import StockImages

BURST_NS = 4_000_000_000


def test_a_starved_guests_watchdog_complains_and_its_steal_tells_why(stock_images: StockImages) -> None:
    # The threshold is twice this; the first burst that the detector sees is enough.
    with boot_linux(stock_images, 2, "watchdog_thresh=1", steal=("1:4s/9s@6",)) as guest:
        guest.ready()
        guest.tell("busy", 2)
        guest.wait_for_text("watchdog: BUG: soft lockup - CPU#1 stuck for")
        samples = guest.until(lambda samples: samples[1].injected_ns % BURST_NS == 0)
        assert samples[0].injected_ns == 0
        assert samples[1].injected_ns >= BURST_NS
        assert samples[1].truth_ns >= samples[1].injected_ns
        own = guest.await_account().steal_ns(1)
        assert own is not None
        assert own > BURST_NS - TICK_NS


def test_a_guest_that_lives_on_two_thirds_of_its_time_lives(stock_images: StockImages) -> None:
    # Interrupts wait while it is held, and none is lost: else it would hang.
    with boot_linux(stock_images, 2, steal=("33%/50ms",)) as guest:
        guest.ready()
        guest.tell("busy", 2)
        samples = guest.until(lambda samples: all(sample.injected_ns > 300_000_000 for sample in samples))
        assert all(sample.truth_ns >= sample.injected_ns for sample in samples)
        guest.stop()
        assert all(sample.injected_ns % 16_500_000 == 0 for sample in guest.engine.sample()[:1])
