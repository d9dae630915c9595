# SPDX-License-Identifier: GPL-2.0-or-later
"""overlap: structures over RAM, over a device, or over others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pvtime.abi.pvtime import STRUCTURE_STRIDE
from pvtime.abi.registration import RegisterResult
from pvtime.errors import UsageError
from pvtime.machine.layout import CONSOLE, RAM_BASE, STOLEN_TIME, Region
from pvtime.machine.memory import MIN_MEMORY
from pvtime.probe.probe import Probe
from pvtime.scenario import claims
from pvtime.scenario.stage import Stage
from pvtime.scenario.story import Event, Scenario, Step

__all__ = ["SCENARIO"]

MEMORY: Final = RAM_BASE + (16 << 20)
RAM: Final = Region("RAM", RAM_BASE, MIN_MEMORY)
PATTERN: Final = 0x5A5A_5A5A_5A5A_5A5A
REFUSED: Final = "refused, naming both"
INVALID: Final = "refused: INVALID_PARAMETER"


def tell(stage: Stage) -> Iterator[Event]:
    """Ask for each place, of whoever decides on it."""
    with stage.boot() as probe:
        if stage.software(MEMORY).gives:
            yield from _given(stage, probe)
            return
        yield Step(
            f"Stolen time is at {STOLEN_TIME.base:#x}, outside of RAM and devices: the machine starts."
        )
        for what, other in (("RAM", RAM), ("a device", CONSOLE)):
            seen = "accepted"
            try:
                with stage.boot(stolen_time=Region(STOLEN_TIME.name, other.base, STOLEN_TIME.size)):
                    pass
            except UsageError as error:
                seen = _refusal(str(error), STOLEN_TIME.name, other.name)
                yield Step(f"A machine with it at {other.base:#x} is refused: {error}.")
            yield stage.found(f"over {what}", seen, REFUSED)
        yield from _another(stage, probe)


def _another(stage: Stage, probe: Probe) -> Iterator[Event]:
    """Ask for a second region that begins in the midst of the first."""
    name, seen = "another machine's stolen time", "accepted"
    try:
        probe.machine.map.allocate(STOLEN_TIME.base + STOLEN_TIME.size // 2, STOLEN_TIME.size, name)
    except UsageError as error:
        seen = _refusal(str(error), STOLEN_TIME.name, name)
        yield Step(f"A second region is refused: {error}.")
    yield stage.found("over another structure", seen, REFUSED)


def _refusal(message: str, *names: str) -> str:
    return REFUSED if all(name in message for name in names) else "refused"


def _given(stage: Stage, probe: Probe) -> Iterator[Event]:
    """Have the guest give an address in each place."""
    kernel = stage.software(MEMORY)
    probe.fill(0, MEMORY, 4096, PATTERN)
    answer = kernel.ask(probe, 0)
    changed = probe.differences(0, MEMORY, 4096, PATTERN)
    yield Step(
        f"The guest gives {MEMORY:#x} in its RAM, where it has data: the answer is {answer}, and "
        f"{8 * len(changed)} bytes there are the hypervisor's now."
    )
    seen = "accepted: the guest's own choice" if answer == 0 and changed else f"{answer}"
    yield stage.found("over RAM", seen, "accepted: the guest's own choice")
    for what, address in (("a device", CONSOLE.base), ("another structure", kernel.own(0))):
        answer = kernel.set(probe, 1, address | 1)
        yield Step(f"vCPU 1 gives {address:#x}, {what}: the answer is {answer}.")
        seen = "accepted" if answer == 0 else f"refused: {RegisterResult(answer).name}"
        yield stage.found(f"over {what}", seen, INVALID)
    half = kernel.own(0) + STRUCTURE_STRIDE // 2
    yield Step(f"{half:#x}, half over vCPU 0's, is not aligned: {kernel.set(probe, 1, half | 1)}.")


SCENARIO: Final = Scenario(
    "overlap",
    "structures over RAM, over a device, or over others: who refuses, and who is named",
    tell,
    (claims.OVERLAP,),
)
