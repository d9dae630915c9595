# SPDX-License-Identifier: GPL-2.0-or-later
"""A pause in place: the guest's clock stands still, or goes on and the pause is stolen time."""

from __future__ import annotations

import time

import pytest

from framework.engines import Choice
from framework.payload import RESULTS, Guest, Payload, boot_on
from pvtime.abi.arm64 import SysReg
from pvtime.abi.pvtime import PvTime
from pvtime.engine.base import Engine

CNTFRQ_EL0 = SysReg(3, 3, 14, 0, 0)
CNTVCT_EL0 = SysReg(3, 3, 14, 0, 2)

CLOCK, ROUNDS, FREQUENCY, OVER = range(4)
PAUSE_S = 0.3


def ticking() -> Payload:
    """Return a payload that asks for stolen time and puts down its counter again and again."""
    payload = Payload().call(PvTime.ST).mrs(14, CNTFRQ_EL0).keep(14, FREQUENCY).mov(11, RESULTS).mov(13, 0)
    payload.label("again").mrs(14, CNTVCT_EL0).store(14, 11, 8 * CLOCK).add(13, 13, 1)
    payload.store(13, 11, 8 * ROUNDS).load(15, 11, 8 * OVER).cbz(15, "again")
    return payload.power_off()


def fresh_clock(guest: Guest[Engine]) -> int:
    """Return the guest's counter of a moment between the call and the return, in ns."""
    rounds = guest.result(ROUNDS)
    guest.until(lambda: guest.result(ROUNDS) > rounds + 1)
    return guest.result(CLOCK) * 10**9 // guest.result(FREQUENCY)


@pytest.mark.parametrize("stolen", [False, True], ids=["stopped", "stolen"])
def test_a_pause_in_place_is_left_out_of_the_guests_clock_or_stolen(stolen: bool, engine: Choice) -> None:
    # Its clock went on in each pause, unseen: one longer than its watchdog's patience was a soft lockup.
    with boot_on(engine, ticking(), pauses=stolen) as guest:
        guest.engine.start()
        guest.until(lambda: guest.result(ROUNDS))
        for pauses in range(1, 4):
            began, before = time.monotonic_ns(), fresh_clock(guest)
            guest.engine.pause()
            paused = time.monotonic_ns()
            assert guest.engine.wait(PAUSE_S) is None
            resumed = time.monotonic_ns()
            guest.engine.resume()
            after, ended = fresh_clock(guest), time.monotonic_ns()
            (sample,) = guest.engine.sample()
            assert sample.structure_ns == sample.truth_ns
            if stolen:
                assert after - before >= resumed - paused
                assert sample.injected_ns >= pauses * PAUSE_S * 1e9
                assert sample.stopped_ns == 0
            else:
                # The host's two clocks may differ by some ppm.
                assert after - before <= (ended - began) * 1.001 - (resumed - paused)
                assert sample.injected_ns == 0
                assert sample.stopped_ns >= pauses * PAUSE_S * 1e9
        guest.tell(OVER)
        guest.end()


@pytest.mark.parametrize("stolen", [False, True], ids=["stopped", "stolen"])
def test_a_machine_that_is_stopped_in_a_pause_has_the_pauses_figures(stolen: bool, engine: Choice) -> None:
    # The process that a guest had left went on to count: stolen time ran backwards in the one that took over.
    with boot_on(engine, ticking(), pauses=stolen) as guest:
        guest.engine.start()
        guest.until(lambda: guest.result(ROUNDS))
        guest.engine.pause()
        paused = guest.engine.sample()
        guest.engine.stop()
        assert guest.engine.sample() == paused
