# SPDX-License-Identifier: GPL-2.0-or-later
"""A vCPU that idles on the emulated CPU: the time that it had no use for is nobody's loss."""

from __future__ import annotations

import time

from framework.wait import DEADLINE
from pvtime.engine.unicorn.engine import UnicornEngine
from pvtime.engine.unicorn.vcpu import State
from pvtime.inject.schedule import Schedule
from pvtime.probe.guest import boot, guest

IDLE_S = 0.1
"""Two periods: it owes something when it wakes."""


def test_who_owes_when_it_wakes_has_not_waited_while_it_idled() -> None:
    steal = Schedule.parse(["1ms/50ms"])
    with boot(lambda machine: UnicornEngine(machine, steal=steal), guest(1)) as probe:
        assert isinstance(probe.engine, UnicornEngine)
        (vcpu,) = probe.engine.vcpus
        for _ in range(3):
            began = time.monotonic_ns()
            (before,) = probe.engine.sample()
            probe.rest(0)
            while vcpu.state is not State.IDLE:
                assert time.monotonic_ns() - began < DEADLINE * 10**9, "it does not idle"
            idle_from = time.monotonic_ns()
            time.sleep(IDLE_S)
            idle_to = time.monotonic_ns()
            probe.spin(0, 1)
            (after,) = probe.engine.sample()
            passed = time.monotonic_ns() - began
            accounted = after.ran_ns + after.truth_ns - before.ran_ns - before.truth_ns
            assert accounted <= passed - (idle_to - idle_from)
            assert after.injected_ns > before.injected_ns, "it owed nothing, so this shows nothing"
