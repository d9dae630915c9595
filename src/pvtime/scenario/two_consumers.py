# SPDX-License-Identifier: GPL-2.0-or-later
"""two-consumers: firmware has stolen time, then a kernel wants it too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pvtime.abi.pvtime import STRUCTURE_STRIDE
from pvtime.abi.registration import RegisterResult
from pvtime.machine.layout import RAM_BASE
from pvtime.scenario import claims
from pvtime.scenario.stage import Stage, ask_anew, await_loads, await_theft
from pvtime.scenario.story import Event, Scenario, Step

__all__ = ["SCENARIO"]

FIRMWARE: Final = RAM_BASE + (16 << 20)
KERNEL: Final = RAM_BASE + (24 << 20)
LOADS: Final = 10


def tell(stage: Stage) -> Iterator[Event]:
    """Let firmware ask on vCPU 0, then a kernel; the other vCPU is there to steal from it."""
    firmware, kernel = stage.software(FIRMWARE), stage.software(KERNEL)
    with stage.boot() as probe:
        first = firmware.enable(probe, 0)
        await_theft(probe, 0)
        count = firmware.count(probe, 0, first)
        yield Step(
            f"Firmware asks for stolen time ({firmware.call}): its structure is at {first:#x}, and after a "
            f"while it reads {count} ns there."
        )
        answer, now, fate = ask_anew(probe, 0, lambda: kernel.ask(probe, 0))
        granted = answer >= 0
        request = "granted" if granted else f"refused: {RegisterResult(answer).name}"
        yield Step(
            f"A kernel asks too ({kernel.call}), and is {request}. The count is {now.structure_ns} ns."
        )
        yield stage.found("the second one's request", request, "granted", guest="refused: IN_USE")
        yield stage.found("the first one's count then", fate, "starts from zero", guest="goes on")
        if not granted:
            where = firmware.given(probe, 0)
            yield Step(f"GET says where the first one is: {where:#x}. The kernel disables that.")
            kernel.disable(probe, 0)
        left = probe.machine.memory.read(firmware.own(0), STRUCTURE_STRIDE)
        second, now, fate = ask_anew(probe, 0, lambda: kernel.enable(probe, 0))
        yield Step(f"Asked once more, it has {second:#x}. The count is {now.structure_ns} ns.")
        yield stage.found("the second one's count", fate, "starts from zero")
        await_loads(probe, 0, LOADS)
        if first == second:
            region = "shared with the second"
        else:
            alone = probe.machine.memory.read(firmware.own(0), STRUCTURE_STRIDE) == left
            region = "left alone once disabled" if alone else "still written"
        yield Step(
            f"After {LOADS} more loads firmware reads {firmware.count(probe, 0, first)} ns at {first:#x}."
        )
        yield stage.found(
            "the first one's region", region, "shared with the second", guest="left alone once disabled"
        )


SCENARIO: Final = Scenario(
    "two-consumers",
    "firmware, then a kernel, both want stolen time of one vCPU",
    tell,
    (claims.ARBITRATION,),
)
