# SPDX-License-Identifier: GPL-2.0-or-later
"""faults: the memory is taken away from under the structures, or made read-only, and given back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pvtime.errors import EngineError, UsageError
from pvtime.machine.layout import RAM_BASE, STOLEN_TIME, Region
from pvtime.machine.memory_map import Access
from pvtime.probe.probe import Probe
from pvtime.scenario import claims
from pvtime.scenario.env import ScenarioEnv, await_loads, await_stolen, count_text
from pvtime.scenario.events import Event, Step
from pvtime.scenario.model import Scenario

__all__ = ["SCENARIO"]

MEMORY: Final = RAM_BASE + (16 << 20)
LOADS: Final = 10


def events(env: ScenarioEnv) -> Iterator[Event]:
    """Take it away, then make it read-only."""
    yield from _fault(env, "gone", Access.NONE)
    yield from _fault(env, "read-only", Access.READ)


def _fault(env: ScenarioEnv, what: str, access: Access) -> Iterator[Event]:
    kernel = env.guest_side(MEMORY)
    region = Region("page", MEMORY, 0x1000) if kernel.guest_provides else STOLEN_TIME
    with env.boot() as probe:
        for index in range(2):
            kernel.enable(probe, index)
        before = await_stolen(probe, 0, 1)[0]
        _limit(probe, region, access)
        during = await_loads(probe, 0, LOADS)[0]
        yield Step(
            f"The count in vCPU 0's structure is {count_text(before)}. The memory at {region.base:#x} is "
            f"{what} now. {LOADS} loads later the host's count is {during.truth_ns} ns and the structure's "
            f"is {count_text(during)}. The report says: {during.fault or 'nothing'}."
        )
        if during.fault is None:
            observed = "counts on" if during.truth_ns == during.structure_ns else "is wrong, and not reported"
        else:
            observed = "stops until it is back" if during.enabled else "stops for good"
            observed += ", as reported"
        yield env.finding(
            f"memory {what}: the count",
            observed,
            "stops until it is back, as reported",
            hypervisor="counts on",
            guest="stops for good, as reported",
        )
        _limit(probe, region, Access.WRITE)
        after = await_loads(probe, 0, LOADS)[0]
        yield Step(
            f"The memory is given back. {LOADS} loads later the host's count is {after.truth_ns} ns and the "
            f"structure's is {count_text(after)}."
        )
        if after.structure_ns is None:
            observed = "is absent: the guest has no structure afterwards"
        elif after.truth_ns != after.structure_ns:
            observed = "is wrong"
        else:
            observed = "equals the truth to the ns"
        yield env.finding(
            f"memory {what}, then back: the count",
            observed,
            "equals the truth to the ns",
            guest="is absent: the guest has no structure afterwards",
        )


def _limit(probe: Probe, region: Region, access: Access) -> None:
    try:
        probe.engine.protect(region, access)
    except EngineError as error:
        raise UsageError(str(error)) from error


SCENARIO: Final = Scenario(
    "faults",
    "the memory is taken away from under the structures, or made read-only",
    events,
    (claims.REAL_MEMORY,),
)
