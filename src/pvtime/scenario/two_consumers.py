# SPDX-License-Identifier: GPL-2.0-or-later
"""two-consumers: firmware has stolen time, then a kernel wants it too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pvtime.abi.pvtime import STRUCTURE_STRIDE
from pvtime.abi.registration import RegisterResult
from pvtime.machine.layout import RAM_BASE
from pvtime.scenario import claims
from pvtime.scenario.env import ScenarioEnv, await_loads, await_stolen, count_text, re_enable
from pvtime.scenario.events import Event, Step
from pvtime.scenario.model import Scenario

__all__ = ["SCENARIO"]

FIRMWARE: Final = RAM_BASE + (16 << 20)
KERNEL: Final = RAM_BASE + (24 << 20)
LOADS: Final = 10


def events(env: ScenarioEnv) -> Iterator[Event]:
    """Let firmware ask on vCPU 0, then a kernel; the other vCPU steals from it."""
    firmware, kernel = env.guest_side(FIRMWARE), env.guest_side(KERNEL)
    with env.boot() as probe:
        first = firmware.enable(probe, 0)
        await_stolen(probe, 0)
        count = firmware.count(probe, 0, first)
        yield Step(
            f"The firmware asks for stolen time ({firmware.call}): its structure is at {first:#x}, and after "
            f"a while the count there is {count} ns."
        )
        answer, now, fate = re_enable(probe, 0, lambda: kernel.request(probe, 0))
        granted = answer >= 0
        request = "granted" if granted else f"refused: {RegisterResult(answer).name}"
        yield Step(
            f"A kernel asks too ({kernel.call}). Its request is {request}, and the count is "
            f"{count_text(now)}."
        )
        yield env.finding("the second consumer's request", request, "granted", guest="refused: IN_USE")
        yield env.finding("the first consumer's count then", fate, "starts from zero", guest="continues")
        if not granted:
            where = firmware.registered(probe, 0)
            yield Step(f"GET answers the first structure's address: {where:#x}. The kernel disables it.")
            kernel.disable(probe, 0)
        left = probe.machine.memory.read(firmware.area_of(0), STRUCTURE_STRIDE)
        second, now, fate = re_enable(probe, 0, lambda: kernel.enable(probe, 0))
        yield Step(f"It asks again: its structure is at {second:#x}, and its count is {count_text(now)}.")
        yield env.finding("the second consumer's count", fate, "starts from zero")
        await_loads(probe, 0, LOADS)
        if first == second:
            region = "shared with the second"
        else:
            alone = probe.machine.memory.read(firmware.area_of(0), STRUCTURE_STRIDE) == left
            region = "left alone once disabled" if alone else "still written"
        yield Step(
            f"After {LOADS} more loads the firmware reads {firmware.count(probe, 0, first)} ns at {first:#x}."
        )
        yield env.finding(
            "the first consumer's region", region, "shared with the second", guest="left alone once disabled"
        )


SCENARIO: Final = Scenario(
    "two-consumers",
    "firmware, then a kernel, both want stolen time of one vCPU",
    events,
    (claims.ARBITRATION,),
)
