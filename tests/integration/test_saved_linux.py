# SPDX-License-Identifier: GPL-2.0-or-later
"""A real kernel that is saved and restored at random moments, and notices nothing."""

from __future__ import annotations

import random
import re
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from typing import Final

import pytest

from framework.context import refuse_loss
from framework.linux import LinuxGuest
from framework.moved import take
from framework.moving_linux import end_elsewhere, move, moving_linux
from pvtime.engine.base import Outcome, VcpuSample
from pvtime.engine.unicorn.engine import UnicornEngine
from pvtime.engine.unicorn.vcpu import SchedState
from pvtime.images.store import StockImages

OTHER: Final = {"on": "off", "off": "on"}
DAYS: Final = 10 * 24 * 3600 * 62_500_000
"""Ten of them, in ticks."""

LOOKS: Final = 12

ENOUGH_NS: Final = 30_000_000
COMPLAINTS: Final = (
    "Oops",
    "BUG",
    "WARNING",
    "rcu:",
    "stall",
    "lockup",
    "Unstable",
    "clocksource: timekeeping",
)


DAY_S = 86_400


def refuse_complaints(console: str) -> None:
    """Check that the kernel has seen nothing odd, and that its clock made no jump, as of ten days."""
    lines = [line for line in console.splitlines() if any(word in line for word in COMPLAINTS)]
    # What every boot says of these.
    lines = [
        line for line in lines if not re.search(r"rcu: (Hierarchical|\tRCU|RCU|srcu|\s)|rcu: Adjusting", line)
    ]
    assert not lines, lines
    stamps = [float(stamp) for stamp in re.findall(r"^\[ *(\d+\.\d+)\]", console, re.MULTILINE)]
    assert all(abs(late - early) < DAY_S for early, late in pairwise(stamps)), "the guest's clock jumped"


def steal_ns(guest: LinuxGuest) -> list[int]:
    """Return what every CPU's /proc/stat says was stolen."""
    report = guest.report()
    return [report.steal_ns(index) or 0 for index in range(guest.machine.config.vcpus)]


@pytest.mark.parametrize(
    ("ahead", "moves"), [(DAYS, 3), (-DAYS, 4)], ids=["from a longer uptime", "from a shorter one"]
)
def test_a_busy_guest_goes_on_wherever_it_is_moved(ahead: int, moves: int, stock_images: StockImages) -> None:
    chance = random.Random(ahead)
    internals = "off"
    with moving_linux(stock_images, internals, ahead=ahead % (1 << 64)) as guest:
        for _ in range(3):  # most of the boot is the fast core's
            time.sleep(chance.random() / 2)
            internals = OTHER[internals]
            move(guest, internals)
        guest.ready()
        guest.tell("seed", 1, 2, 3, (1 << 63) - 1)
        guest.tell("busy", 2)
        for _ in range(moves):
            guest.until(lambda samples: all(sample.truth_ns > ENOUGH_NS for sample in samples))
            guest.await_account()
            time.sleep(chance.random() / 4)
            internals = OTHER[internals]
            guest.engine.pause()
            saved = guest.engine.sample()
            move(guest, internals)
            more = guest.until(partial(stolen_since, saved))
            assert all(new.structure_ns == new.truth_ns for new in more)
        guest.await_account()
        guest.tell("idle")
        # A CPU that is switched on after a restore has the same clock, and the kernel writes on the console.
        guest.tell("offline", 1)
        guest.tell("online", 1)
        guest.stop()
        assert guest.engine.wait() is Outcome.POWER_OFF
        assert guest.console.count("Booted secondary processor") == 2
        refuse_complaints(guest.console)


def stolen_since(then: list[VcpuSample], now: list[VcpuSample]) -> bool:
    """Whether every vCPU was stolen from enough."""
    return all(new.truth_ns > old.truth_ns + ENOUGH_NS for new, old in zip(now, then, strict=True))


def test_a_restored_guest_reboots_with_stolen_time_and_goes_on_in_another_process(
    stock_images: StockImages,
) -> None:
    with moving_linux(stock_images, "on", append="pvtime.shell", ahead=DAYS) as guest:
        guest.ready()
        move(guest, "on")
        guest.on_agent(b"stat cpu0 1 2")  # a report that the reboot cuts off
        guest.type("reboot -f")
        guest.ready()
        assert guest.console.count("using stolen time PV") == 2
        guest.tell("busy", 2)
        guest.until(lambda samples: all(sample.truth_ns > ENOUGH_NS for sample in samples))
        guest.await_account()
        stolen = steal_ns(guest)
        image = take(guest.machine, guest.engine)
        before = guest.engine.sample()
        console = guest.console
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as elsewhere:
            outcome, after, steal, rest = elsewhere.submit(end_elsewhere, image, "auto").result()
    assert outcome is Outcome.POWER_OFF
    for old, new in zip(before, after, strict=True):
        assert new.truth_ns == new.count_ns >= old.truth_ns
        assert new.loads > old.loads
    assert all(own is not None and own >= then for own, then in zip(steal, stolen, strict=True))
    first, booting, second = console.rpartition("[    0.000000] Booting Linux")
    assert "Restarting system" in first
    for kernel in (first, booting + second + rest):
        refuse_complaints(kernel)


def test_nothing_of_a_kernels_registers_is_lost_by_the_slow_core(stock_images: StockImages) -> None:
    # By the other, and on other models: test_saved_aarch32.py.
    with moving_linux(stock_images, "off", cpu="cortex-a57") as guest:
        chance = random.Random("cortex-a57")
        assert look_often(guest, chance) > 0, "nobody had registers"
        move(guest, "on")
        guest.ready()
        guest.tell("busy", 2)
        move(guest, "off")
        assert look_often(guest, chance) == 2 * LOOKS


def look_often(guest: LinuxGuest, chance: random.Random) -> int:
    """Look at random moments; return how many vCPUs were seen."""
    seen = 0
    for _ in range(LOOKS):
        time.sleep(chance.random() / 12)
        seen += look(guest.engine)
    return seen


def look(engine: UnicornEngine) -> int:
    """Pause, and check every vCPU that has registers; return how many."""
    engine.pause()
    there = [
        vcpu for vcpu in engine.vm.vcpus if vcpu.state is not SchedState.OFF and vcpu.context is not None
    ]

    def check() -> None:
        for vcpu in there:
            refuse_loss(engine.vm.core, vcpu.index, vcpu.context)

    engine.call(check)
    engine.resume()
    return len(there)
