# SPDX-License-Identifier: GPL-2.0-or-later
"""reset: the machine reboots."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pvtime.abi.pvtime import STRUCTURE_STRIDE
from pvtime.machine.layout import RAM_BASE
from pvtime.scenario.env import ScenarioEnv, await_loads, await_stolen, count_text, re_enable
from pvtime.scenario.events import Event, Step
from pvtime.scenario.model import Scenario

__all__ = ["SCENARIO"]

MEMORY: Final = RAM_BASE + (16 << 20)
LOADS: Final = 10


def events(env: ScenarioEnv) -> Iterator[Event]:
    """Reset a machine whose two vCPUs have stolen time."""
    kernel = env.guest_side(MEMORY)
    with env.boot() as old:
        structures = [kernel.enable(old, index) for index in range(2)]
        before = await_stolen(old, 0, 1)
        probe = old.reset()
        after = await_loads(probe, 0, LOADS)
        for index in range(2):
            yield Step(
                f"vCPU {index}, structure at {structures[index]:#x}: the count was "
                f"{count_text(before[index])} before the reset and is {count_text(after[index])} after it."
            )
        off = not any(sample.enabled for sample in after)
        yield env.finding("enabled after the reset", "no" if off else "yes", "no")
        area = kernel.area_of(0)
        clear = not any(probe.machine.memory.read(area, 2 * STRUCTURE_STRIDE))
        yield Step(
            f"{LOADS} loads later the RAM at {area:#x}, where the old kernel had memory for "
            f"structures, is {'clear' if clear else 'not clear'}."
        )
        observed = "nothing" if clear else "the old structures"
        yield env.finding("written into the new kernel's RAM", observed, "nothing")
        _, counts, observed = re_enable(probe, 0, lambda: kernel.enable(probe, 0))
        yield Step(f"The new kernel asks for stolen time ({kernel.call}): its count is {count_text(counts)}.")
        yield env.finding("the count after a new request", observed, "starts from zero")


SCENARIO: Final = Scenario("reset", "the machine reboots: is anything of stolen time left?", events)
