# SPDX-License-Identifier: GPL-2.0-or-later
"""entries: how often the structure is updated, at each entry to the guest or at each load of the vCPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pvtime.abi.psci import Psci
from pvtime.abi.registration import KvmStealTime
from pvtime.machine.layout import RAM_BASE
from pvtime.scenario import claims
from pvtime.scenario.env import ScenarioEnv, await_stolen
from pvtime.scenario.events import Event, Step
from pvtime.scenario.model import Scenario

__all__ = ["SCENARIO"]

MEMORY: Final = RAM_BASE + (16 << 20)
CALLS: Final = 500
PER_UPDATE: Final = 2
"""The version goes up by this with each."""


def events(env: ScenarioEnv) -> Iterator[Event]:
    """Have a vCPU make calls that nothing but an exit and an entry comes of, while nobody steals from it."""
    kernel = env.guest_side(MEMORY)
    with env.boot() as probe:
        structure = kernel.enable(probe, 0)
        await_stolen(probe, 0)
        probe.rest(1)
        before = probe.engine.sample()[0]
        version = probe.load(0, structure + KvmStealTime.version.offset, 4)
        # In one go: between two commands of the host a busy host has the vCPU wait, which ends in a load.
        probe.repeat_call(0, Psci.VERSION, CALLS)
        updates = (probe.load(0, structure + KvmStealTime.version.offset, 4) - version) // PER_UPDATE
        after = probe.engine.sample()[0]
        loads = after.loads - before.loads
        yield Step(
            f"vCPU 0 leaves the guest and enters it again {CALLS} times, by a hypercall. Loads meanwhile: "
            f"{loads}."
        )
        at_loads = loads < CALLS
        if kernel.guest_provides:
            yield Step(f"Updates meanwhile, by the structure's version: {updates}.")
            at_loads = at_loads and updates <= loads
        yield env.finding("the structure is updated", "at loads" if at_loads else "at entries", "at loads")


SCENARIO: Final = Scenario(
    "entries",
    "is the structure updated at each entry to the guest, or at each load of the vCPU?",
    events,
    (claims.RETURN, claims.LOAD, claims.PUT_USER),
)
