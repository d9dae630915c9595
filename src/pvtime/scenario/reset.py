# SPDX-License-Identifier: GPL-2.0-or-later
"""reset: the machine starts anew."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pvtime.abi.pvtime import STRUCTURE_STRIDE
from pvtime.machine.layout import RAM_BASE
from pvtime.scenario.stage import Stage, ask_anew, await_loads, await_theft
from pvtime.scenario.story import Event, Scenario, Step

__all__ = ["SCENARIO"]

MEMORY: Final = RAM_BASE + (16 << 20)
LOADS: Final = 10


def tell(stage: Stage) -> Iterator[Event]:
    """Reset a machine whose two vCPUs have stolen time."""
    kernel = stage.software(MEMORY)
    with stage.boot() as old:
        at = [kernel.enable(old, index) for index in range(2)]
        before = await_theft(old, 0, 1)
        probe = old.reset()
        after = await_loads(probe, 0, LOADS)
        for index in range(2):
            yield Step(
                f"vCPU {index}, structure at {at[index]:#x}: {before[index].structure_ns} ns before the "
                f"reset and {after[index].structure_ns} ns after it."
            )
        off = not any(sample.enabled for sample in after)
        yield stage.found("enabled after it", "no" if off else "yes", "no")
        ram = bytes(2 * STRUCTURE_STRIDE) == probe.machine.memory.read(kernel.own(0), 2 * STRUCTURE_STRIDE)
        yield Step(
            f"{LOADS} loads later its RAM is {'clear' if ram else 'not clear'} at {kernel.own(0):#x}, where "
            "the old kernel had memory for structures."
        )
        seen = "nothing" if ram else "the old structures"
        yield stage.found("written into the new kernel's RAM", seen, "nothing")
        _, counts, seen = ask_anew(probe, 0, lambda: kernel.enable(probe, 0))
        yield Step(f"The new kernel asks ({kernel.call}): {counts.structure_ns} ns.")
        yield stage.found("the count once it asks", seen, "starts from zero")


SCENARIO: Final = Scenario("reset", "the machine starts anew: what is left of stolen time", tell)
