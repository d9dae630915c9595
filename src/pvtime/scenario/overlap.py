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
from pvtime.scenario.env import ScenarioEnv
from pvtime.scenario.events import Event, Step
from pvtime.scenario.model import Scenario

__all__ = ["SCENARIO"]

MEMORY: Final = RAM_BASE + (16 << 20)
RAM: Final = Region("RAM", RAM_BASE, MIN_MEMORY)
PATTERN: Final = 0x5A5A_5A5A_5A5A_5A5A
REFUSED: Final = "refused, naming both"
INVALID: Final = "refused: INVALID_PARAMETER"


def events(env: ScenarioEnv) -> Iterator[Event]:
    """Request each overlap from the side that decides on the address."""
    with env.boot() as probe:
        if env.guest_side(MEMORY).guest_provides:
            yield from _given(env, probe)
            return
        yield Step(
            f"Stolen time is at {STOLEN_TIME.base:#x}, outside of RAM and devices: the machine starts."
        )
        for what, other in (("RAM", RAM), ("a device", CONSOLE)):
            observed = "accepted"
            try:
                with env.boot(stolen_time=Region(STOLEN_TIME.name, other.base, STOLEN_TIME.size)):
                    pass
            except UsageError as error:
                observed = _refusal(str(error), STOLEN_TIME.name, other.name)
                yield Step(f"A machine with it at {other.base:#x} is refused: {error}.")
            yield env.finding(f"over {what}", observed, REFUSED)
        yield from _another(env, probe)


def _another(env: ScenarioEnv, probe: Probe) -> Iterator[Event]:
    """Ask for a second region that begins in the midst of the first."""
    name, observed = "another machine's stolen time", "accepted"
    try:
        probe.machine.map.allocate(STOLEN_TIME.base + STOLEN_TIME.size // 2, STOLEN_TIME.size, name)
    except UsageError as error:
        observed = _refusal(str(error), STOLEN_TIME.name, name)
        yield Step(f"A second region is refused: {error}.")
    yield env.finding("over another structure", observed, REFUSED)


def _refusal(message: str, *names: str) -> str:
    return REFUSED if all(name in message for name in names) else "refused"


def _given(env: ScenarioEnv, probe: Probe) -> Iterator[Event]:
    """Have the guest give an address in each place."""
    kernel = env.guest_side(MEMORY)
    probe.fill(0, MEMORY, 4096, PATTERN)
    answer = kernel.request(probe, 0)
    changed = probe.differences(0, MEMORY, 4096, PATTERN)
    yield Step(
        f"vCPU 0 registers {MEMORY:#x} in its RAM, where the guest has data: the answer is {answer}, and the "
        f"hypervisor has overwritten {8 * len(changed)} bytes there."
    )
    observed = "accepted: the guest's own choice" if answer == 0 and changed else f"{answer}"
    yield env.finding("over RAM", observed, "accepted: the guest's own choice")
    for what, address in (("a device", CONSOLE.base), ("another structure", kernel.area_of(0))):
        answer = kernel.set(probe, 1, address | 1)
        yield Step(f"vCPU 1 registers {address:#x}, {what}: the answer is {answer}.")
        observed = "accepted" if answer == 0 else f"refused: {RegisterResult(answer).name}"
        yield env.finding(f"over {what}", observed, INVALID)
    half = kernel.area_of(0) + STRUCTURE_STRIDE // 2
    yield Step(
        f"vCPU 1 registers {half:#x}, which is in the middle of vCPU 0's structure and so not aligned: the "
        f"answer is {kernel.set(probe, 1, half | 1)}."
    )


SCENARIO: Final = Scenario(
    "overlap",
    "structures over RAM, over a device, or over others: who refuses, and who is named",
    events,
    (claims.OVERLAP,),
)
