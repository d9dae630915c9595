# SPDX-License-Identifier: GPL-2.0-or-later
"""CPU hotplug in a real guest: whoever comes back asks for stolen time again, and counts from zero."""

from __future__ import annotations

from framework.linux import boot_linux
from pvtime.images.store import StockImages

ENOUGH_NS = 300_000_000


def test_a_cpu_that_comes_back_counts_from_zero_and_the_others_go_on(stock_images: StockImages) -> None:
    with boot_linux(stock_images, 3) as guest:
        guest.ready()
        guest.tell("busy", 3)
        before = guest.until(lambda samples: all(s.truth_ns > ENOUGH_NS for s in samples))
        guest.tell("idle")
        guest.tell("offline", 1)
        off = guest.engine.sample()
        assert guest.engine.sample()[1] == off[1], "a CPU that is off runs or is stolen from"
        assert off[1].truth_ns >= before[1].truth_ns, "it is there until the CPU asks again"
        guest.tell("online", 1)
        on = guest.engine.sample()
        assert on[1].enabled
        assert on[1].loads > off[1].loads
        assert on[1].truth_ns == on[1].count_ns < off[1].truth_ns, "it did not begin anew"
        for index in 0, 2:
            assert on[index].truth_ns >= off[index].truth_ns >= before[index].truth_ns
        guest.tell("busy", 3)
        after = guest.until(lambda samples: samples[1].truth_ns > ENOUGH_NS)
        assert after[0].truth_ns >= on[0].truth_ns


def test_cpu_0_counts_on_while_another_goes_and_comes_many_times(stock_images: StockImages) -> None:
    with boot_linux(stock_images, 2) as guest:
        guest.ready()
        for _ in range(20):
            before = guest.engine.sample()
            guest.tell("offline", 1)
            guest.tell("online", 1)
            after = guest.until(lambda _: True)
            assert after[0].truth_ns >= before[0].truth_ns
            assert after[0].enabled
            assert after[1].enabled
        assert guest.console.count("Booted secondary processor") == 1 + 20
