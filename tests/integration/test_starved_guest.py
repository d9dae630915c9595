# SPDX-License-Identifier: GPL-2.0-or-later
"""A real kernel is starved until its watchdog complains, and its steal column says who is to blame."""

from __future__ import annotations

from framework.linux import TICK_NS, boot_linux
from pvtime.images.store import StockImages
from pvtime.inject.schedule import Schedule

SLICE_NS = 16_500_000
"""Of each 50 ms, a third."""
BURST_NS = 4_000_000_000
BUSY_NS = 100_000_000
BUSY = "taskset -c 1 sh -c 'while :; do :; done' &"


def test_a_guest_lives_on_two_thirds_of_its_time_and_its_watchdog_complains_of_a_burst(
    stock_images: StockImages,
) -> None:
    with boot_linux(stock_images, 2, "watchdog_thresh=1 pvtime.shell", steal=("33%/50ms",)) as guest:
        # Interrupts wait while it is held, and none is lost: else it would hang.
        guest.ready()
        guest.tell("busy", 2)
        samples = guest.until(
            lambda samples: (
                all(sample.injected_ns > 300_000_000 for sample in samples)
                and samples[0].injected_ns % SLICE_NS == 0  # it is not held now
            )
        )
        assert all(sample.truth_ns >= sample.injected_ns for sample in samples)
        # vCPU 0 idles meanwhile, and vCPU 1 is busy, else its watchdog has nothing to complain of.
        guest.tell("idle")
        guest.engine.set_steal(Schedule())
        before = guest.engine.sample()
        guest.type(BUSY)
        guest.until(lambda samples: samples[1].ran_ns > before[1].ran_ns + BUSY_NS)
        guest.engine.set_steal(Schedule.parse(["1:4s/9s"]))
        # The threshold is twice watchdog_thresh; the first burst that the detector sees is enough.
        guest.wait_for_text("watchdog: BUG: soft lockup - CPU#1 stuck for")
        samples = guest.until(
            lambda samples: (
                samples[1].injected_ns > before[1].injected_ns
                and (samples[1].injected_ns - before[1].injected_ns) % BURST_NS == 0
            )
        )
        assert samples[0].injected_ns == before[0].injected_ns
        assert samples[1].truth_ns >= samples[1].injected_ns
        guest.tell("busy", 2)
        own = guest.await_account().steal_ns(1)
        assert own is not None
        assert own > samples[1].injected_ns - TICK_NS
        guest.stop()
