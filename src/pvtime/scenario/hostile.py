# SPDX-License-Identifier: GPL-2.0-or-later
"""hostile: the guest writes its own structure, and registers addresses that it must not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pvtime.abi.pvtime import PvTime
from pvtime.abi.registration import KvmStealTime, RegisterResult
from pvtime.machine.layout import GIC_DISTRIBUTOR, RAM_BASE
from pvtime.machine.memory import MIN_MEMORY
from pvtime.probe.probe import Probe
from pvtime.scenario.env import ScenarioEnv, await_loads, await_stolen, count_text
from pvtime.scenario.events import Event, Step
from pvtime.scenario.guest_side import GuestSide, signed
from pvtime.scenario.model import Scenario

__all__ = ["SCENARIO"]

MEMORY: Final = RAM_BASE + (16 << 20)
FORGED_STEAL_NS: Final = 1 << 62
"""Stolen time in ns: 146 years."""
LOADS: Final = 10


def events(env: ScenarioEnv) -> Iterator[Event]:
    """Have vCPU 0 forge its count; vCPU 1 leaves its own alone."""
    kernel = env.guest_side(MEMORY)
    with env.boot() as probe:
        yield from _addresses(env, probe, kernel)
        structures = [kernel.enable(probe, index) for index in range(2)]
        await_stolen(probe, 0, 1)
        probe.store(0, kernel.count_address(structures[0]), FORGED_STEAL_NS)
        if kernel.guest_provides:
            probe.store(0, structures[0] + KvmStealTime.version.offset, 1, size=4)
        forged, honest = await_loads(probe, 0, LOADS)
        yield Step(
            f"vCPU 0 writes {FORGED_STEAL_NS} into its structure at {structures[0]:#x}. {LOADS} loads later "
            f"the count there is {count_text(forged)} and the host's is {forged.truth_ns} ns: the report's "
            f"column 'structure - truth' is {forged.count_ns - forged.truth_ns} ns."
        )
        difference = forged.count_ns - forged.truth_ns
        observed = "unaffected" if 0 < forged.truth_ns < FORGED_STEAL_NS else "affected"
        yield env.finding("truth, after the guest forges its count", observed, "unaffected")
        observed = "shown in the report" if difference > FORGED_STEAL_NS // 2 else "not to be seen"
        yield env.finding("the forged count", observed, "shown in the report")
        same = honest.truth_ns == honest.structure_ns and honest.enabled
        yield Step(
            f"{honest.truth_ns} ns have been stolen from vCPU 1, and the count in its structure is "
            f"{count_text(honest)}."
        )
        yield env.finding("the other vCPU", "exact to the ns" if same else "affected", "exact to the ns")


def _addresses(env: ScenarioEnv, probe: Probe, kernel: GuestSide) -> Iterator[Event]:
    """Register addresses that are no RAM, or in use."""
    kernel.enable(probe, 1)
    bad = {
        "in the GIC": GIC_DISTRIBUTOR.base,
        "past the end of RAM": RAM_BASE + MIN_MEMORY,
        "misaligned": MEMORY + 8,
        "vCPU 1's": kernel.area_of(1),
    }
    answers = {name: kernel.set(probe, 0, address | 1) for name, address in bad.items()}
    if kernel.guest_provides:
        kernel.enable(probe, 0)
        answers["a second one"] = kernel.set(probe, 0, MEMORY + 0x1000 | 1)
        kernel.disable(probe, 0)
        kernel.disable(probe, 1)
    yield Step(
        "vCPU 0 tries to register addresses, and is answered: "
        + ", ".join(f"{name} {answer}" for name, answer in answers.items())
        + "."
    )
    if set(answers.values()) == {int(RegisterResult.NOT_SUPPORTED)}:
        answer = signed(probe.call(0, PvTime.ST, GIC_DISTRIBUTOR.base)[0])
        yield Step(
            f"PV_TIME_ST with the GIC's address as an argument answers {answer:#x}: it takes no arguments."
        )
        observed = "cannot be registered" if answer != GIC_DISTRIBUTOR.base else "accepted"
    else:
        accepted = [name for name, answer in answers.items() if answer == RegisterResult.SUCCESS]
        observed = f"accepted: {', '.join(accepted)}" if accepted else f"all {len(answers)} refused"
    yield env.finding("bad addresses", observed, "cannot be registered", guest="all 5 refused")


SCENARIO: Final = Scenario(
    "hostile", "the guest writes its own structure, and registers addresses that it must not", events
)
