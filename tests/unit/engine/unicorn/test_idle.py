# SPDX-License-Identifier: GPL-2.0-or-later
"""A vCPU that idles on the emulated CPU: the time that it had no use for is nobody's loss."""

from __future__ import annotations

from framework.idle import watch_idle
from pvtime.engine.unicorn.engine import UnicornEngine
from pvtime.inject.schedule import Schedule
from pvtime.probe.guest import boot, guest

PERIOD_NS = 50_000_000


def test_who_owes_when_it_wakes_has_not_waited_while_it_idled() -> None:
    steal = Schedule.parse(["1ms/50ms"])
    with boot(lambda machine: UnicornEngine(machine, steal=steal), guest(1)) as probe:
        assert isinstance(probe.engine, UnicornEngine)
        for _ in range(3):
            (before,) = probe.engine.sample()
            probe.rest(0)
            watch_idle(probe.engine, 0, 2 * PERIOD_NS).refuse_stolen_idle_time()
            probe.spin(0, 1)
            (after,) = probe.engine.sample()
            assert after.injected_ns > before.injected_ns, "it owed nothing, so this shows nothing"
