# SPDX-License-Identifier: GPL-2.0-or-later
"""CPU hotplug in a real guest: whoever comes back asks for stolen time again, and counts from zero."""

from __future__ import annotations

from dataclasses import replace

import pytest

from framework.linux import boot_linux, warm_linux
from framework.wait import wait_until
from pvtime.images.store import StockImages
from pvtime.report.model import VcpuRow
from pvtime.run.figures import Figures

TIMES = 5
ENOUGH_NS = 100_000_000


def test_a_cpu_that_comes_back_counts_from_zero_and_the_others_go_on(stock_images: StockImages) -> None:
    with boot_linux(stock_images, 3) as guest:
        guest.ready()
        guest.tell("busy", 3)
        before = guest.until(lambda samples: all(s.truth_ns > ENOUGH_NS for s in samples))
        guest.tell("idle")
        guest.tell("offline", 1)
        off = guest.engine.sample()
        # Where the engine's thread was kept from running, the process was stopped, for every vCPU.
        still = replace(guest.engine.sample()[1], idle_ns=off[1].idle_ns, stopped_ns=off[1].stopped_ns)
        assert still == off[1], "a CPU that is off runs or is stolen from"
        assert off[1].truth_ns >= before[1].truth_ns, "it is there until the CPU asks again"
        guest.tell("online", 1)
        on = guest.engine.sample()
        assert on[1].enabled
        assert on[1].loads > off[1].loads
        assert on[1].starts == off[1].starts + 1
        assert on[1].truth_ns == on[1].count_ns <= on[1].stolen_ns - off[1].stolen_ns, "it did not begin anew"
        for index in 0, 2:
            assert on[index].truth_ns >= off[index].truth_ns >= before[index].truth_ns
        guest.tell("busy", 3)
        after = guest.until(lambda samples: samples[1].truth_ns > ENOUGH_NS)
        assert after[0].truth_ns >= on[0].truth_ns


@pytest.mark.usefixtures("stock_images")
def test_the_guests_steal_runs_backwards_and_that_is_told() -> None:
    # The count begins at 0 again, and Linux adds the difference to its column, as a u64.
    before, after, told = wait_until(fallen)
    assert before.guest is not None
    assert after.guest is not None
    assert after.guest_steal_fell_ns >= before.guest.steal_ns - after.guest.steal_ns > 0
    assert len(told) == 1
    assert told[0].startswith("vCPU 1: the steal in the guest's /proc/stat ran backwards, from ")
    assert after.starts == 2
    assert after.guest_error_ns is not None
    assert after.guest_error_ns <= 0, "both count from the second PV_TIME_ST"
    assert after.stolen_ns >= before.stolen_ns, "the host forgets nothing"


def fallen() -> tuple[VcpuRow, VcpuRow, list[str]] | None:
    """Return a vCPU before and after it comes back, and what is told; None where as much was stolen since."""
    told: list[str] = []
    figures = Figures(stealing=False, tell=told.append)
    with warm_linux() as guest:

        def look() -> VcpuRow:
            report = guest.report()
            return figures.join(0.0, guest.engine.sample(), report).vcpus[1]

        guest.tell("busy", 2)
        guest.until(lambda samples: samples[1].truth_ns > ENOUGH_NS)
        guest.await_account()
        before = look()
        assert before.guest is not None
        known = before.guest.steal_ns
        assert told == []
        guest.tell("idle")
        guest.tell("offline", 1)
        guest.tell("online", 1)

        def looked() -> VcpuRow | None:
            row = look()
            return row if row.guest_steal_falls or row.truth_ns >= known else None

        after = wait_until(looked, guest.engine)
    return (before, after, told) if after.guest_steal_falls else None


@pytest.mark.usefixtures("stock_images")
def test_cpu_0_counts_on_while_another_goes_and_comes_many_times() -> None:
    with warm_linux() as guest:
        for _ in range(TIMES):
            before = guest.engine.sample()
            guest.tell("offline", 1)
            guest.tell("online", 1)
            after = guest.until(lambda _: True)
            assert after[0].truth_ns >= before[0].truth_ns
            assert after[0].enabled
            assert after[1].enabled
        assert guest.console.count("Booted secondary processor") == TIMES
