# SPDX-License-Identifier: GPL-2.0-or-later
"""hostile: the guest writes its own structure, and names addresses that are not for it to name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pvtime.abi.pvtime import PvTime
from pvtime.abi.registration import KvmStealTime, RegisterResult
from pvtime.machine.layout import GIC_DISTRIBUTOR, RAM_BASE
from pvtime.machine.memory import MIN_MEMORY
from pvtime.probe.probe import Probe
from pvtime.scenario.software import Software, signed
from pvtime.scenario.stage import Stage, await_loads, await_theft
from pvtime.scenario.story import Event, Scenario, Step

__all__ = ["SCENARIO"]

MEMORY: Final = RAM_BASE + (16 << 20)
LIE: Final = 1 << 62
"""Stolen time in ns: 146 years."""
LOADS: Final = 10


def tell(stage: Stage) -> Iterator[Event]:
    """Have vCPU 0 lie to itself; vCPU 1 is honest."""
    kernel = stage.software(MEMORY)
    with stage.boot() as probe:
        yield from _addresses(stage, probe, kernel)
        at = [kernel.enable(probe, index) for index in range(2)]
        await_theft(probe, 0, 1)
        probe.store(0, kernel.count_address(at[0]), LIE)
        if kernel.gives:
            probe.store(0, at[0] + KvmStealTime.version.offset, 1, size=4)
        liar, honest = await_loads(probe, 0, LOADS)
        yield Step(
            f"vCPU 0 writes {LIE} into its structure at {at[0]:#x}. {LOADS} loads later the structure says "
            f"{liar.structure_ns} ns, and the host {liar.truth_ns} ns: the report's column 'structure - "
            f"truth' is {liar.count_ns - liar.truth_ns} ns."
        )
        difference = liar.count_ns - liar.truth_ns
        seen = "unaffected" if 0 < liar.truth_ns < LIE else "affected"
        yield stage.found("it overwrites its count: truth", seen, "unaffected")
        seen = "shown in the report" if difference > LIE // 2 else "not to be seen"
        yield stage.found("the lie", seen, "shown in the report")
        same = honest.truth_ns == honest.structure_ns and honest.enabled
        yield Step(
            f"Of vCPU 1 {honest.truth_ns} ns are stolen, and {honest.structure_ns} ns in its structure."
        )
        yield stage.found("the other vCPU", "exact to the ns" if same else "affected", "exact to the ns")


def _addresses(stage: Stage, probe: Probe, kernel: Software) -> Iterator[Event]:
    """Give away what is not RAM, or is somebody's."""
    kernel.enable(probe, 1)
    bad = {
        "in the GIC": GIC_DISTRIBUTOR.base,
        "past the end of RAM": RAM_BASE + MIN_MEMORY,
        "misaligned": MEMORY + 8,
        "vCPU 1's": kernel.own(1),
    }
    answers = {name: kernel.set(probe, 0, address | 1) for name, address in bad.items()}
    if kernel.gives:
        kernel.enable(probe, 0)
        answers["a second one"] = kernel.set(probe, 0, MEMORY + 0x1000 | 1)
        kernel.disable(probe, 0)
        kernel.disable(probe, 1)
    yield Step(
        "vCPU 0 gives addresses: " + ", ".join(f"{name} {answer}" for name, answer in answers.items()) + "."
    )
    if set(answers.values()) == {int(RegisterResult.NOT_SUPPORTED)}:
        answer = signed(probe.call(0, PvTime.ST, GIC_DISTRIBUTOR.base)[0])
        yield Step(f"PV_TIME_ST with the GIC's address as an argument answers {answer:#x}: it takes none.")
        seen = "cannot be given" if answer != GIC_DISTRIBUTOR.base else "accepted"
    else:
        accepted = [name for name, answer in answers.items() if answer == RegisterResult.SUCCESS]
        seen = f"accepted: {', '.join(accepted)}" if accepted else f"all {len(answers)} refused"
    yield stage.found("bad addresses", seen, "cannot be given", guest="all 5 refused")


SCENARIO: Final = Scenario(
    "hostile", "the guest writes its own structure, and gives away addresses that are not its to give", tell
)
