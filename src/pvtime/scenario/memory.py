# SPDX-License-Identifier: GPL-2.0-or-later
"""memory: how much memory stolen time needs, who provides it, and who must know of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final

from pvtime.abi.pvtime import STRUCTURE_STRIDE, PvTime
from pvtime.abi.pvtime_device import PvTimeGroup
from pvtime.abi.registration import RegisterCall
from pvtime.errors import PvTimeDeviceError
from pvtime.machine.layout import RAM_BASE, STOLEN_TIME, Region
from pvtime.probe.probe import Probe
from pvtime.scenario import claims
from pvtime.scenario.software import Software, signed
from pvtime.scenario.stage import Stage
from pvtime.scenario.story import Event, Scenario, Step
from pvtime.steal.hypervisor import HypervisorPlacement, PvTimeDevice

__all__ = ["SCENARIO", "attributes", "device_of"]

MEMORY: Final = RAM_BASE + (16 << 20)
ELSEWHERE: Final = Region(STOLEN_TIME.name, STOLEN_TIME.base + (1 << 20), STOLEN_TIME.size)
VCPUS: Final = 3
KIB: Final = 1024


def tell(stage: Stage) -> Iterator[Event]:
    """Look at what a machine with three vCPUs has, what it answers, and what its parts can be asked."""
    kernel = stage.software(MEMORY)
    with stage.boot(VCPUS) as probe:
        at = [kernel.enable(probe, index) for index in range(VCPUS)]
        yield Step("The structures are at " + ", ".join(f"{ipa:#x}" for ipa in at) + ".")
        yield from _size(stage, probe, kernel, at)
        yield from _who(stage, probe)
        base = at[0]
    with stage.boot(1, stolen_time=ELSEWHERE) as probe:
        moved = stage.software(MEMORY + 4096).enable(probe, 0)
    yield Step(
        f"Where the VMM says {ELSEWHERE.base:#x} and not {STOLEN_TIME.base:#x}, and the guest, should it be "
        f"asked, {MEMORY + 4096:#x} and not {MEMORY:#x}, vCPU 0's is at {moved:#x} and not at {base:#x}."
    )
    chooser = {ELSEWHERE.base: "the VMM", MEMORY + 4096: "the guest"}.get(moved, "nobody")
    yield stage.found("who chooses the address", chooser, "the VMM", guest="the guest")


def _size(stage: Stage, probe: Probe, kernel: Software, at: list[int]) -> Iterator[Event]:
    machine = probe.machine
    beside = [memory for memory in machine.map.memories if memory is not machine.memory]
    reserved = sum(memory.size for memory in beside)
    if kernel.gives:
        below = [step for step in (8, 16, 32, 64) if _accepted(probe, kernel, kernel.own(VCPUS) + step)]
        stride = f"{min(below)} bytes, any place that is aligned so"
        fixed = f"{STRUCTURE_STRIDE} bytes, any place that is aligned so"
        yield Step(f"Of addresses that are 8, 16, 32, 64 bytes further, those are accepted: {below}.")
    else:
        (distance,) = {second - first for first, second in itertools.pairwise(at)}
        stride = f"{distance} bytes, one after the other"
        fixed = f"{STRUCTURE_STRIDE} bytes, one after the other"
    yield stage.found(
        "memory per vCPU as ABI", stride, f"{STRUCTURE_STRIDE} bytes, one after the other", guest=fixed
    )
    yield Step(f"Beside RAM the machine has {reserved} bytes of memory.")
    seen = f"{reserved // KIB} KiB" if reserved else "none"
    yield stage.found("memory set aside beside RAM", seen, "64 KiB", guest="none")
    if not beside:
        owner = "the guest"
    else:
        owner = "the VMM" if all(memory in machine.memories for memory in beside) else "the hypervisor"
    yield stage.found(
        "who provides the memory", owner, "the VMM", hypervisor="the hypervisor", guest="the guest"
    )


def _accepted(probe: Probe, kernel: Software, address: int) -> bool:
    """Whether vCPU 0 may have its structure there."""
    kernel.disable(probe, 0)
    return kernel.set(probe, 0, address | 1) == 0


def _who(stage: Stage, probe: Probe) -> Iterator[Event]:
    """Ask each part for the interfaces that it has."""
    calls = [
        name
        for name, features, function in (
            ("PV_TIME_ST", PvTime.FEATURES, PvTime.ST),
            ("SET", RegisterCall.FEATURES, RegisterCall.SET),
            ("GET", RegisterCall.FEATURES, RegisterCall.GET),
        )
        if signed(probe.call(0, features, function)[0]) == 0
    ]
    yield Step(f"The guest is offered: {', '.join(calls)}.")
    yield stage.found("the guest must know", ", ".join(calls), "PV_TIME_ST", guest="SET, GET")
    known = attributes(device_of(probe))
    mine = [memory.region.name for memory in probe.machine.memories]
    yield Step(
        f"The VMM maps, saves and moves: {', '.join(mine)}. Attributes that it can get: {known or 'none'}."
    )
    extra = [f"map and move {name}" for name in mine if name != probe.machine.memory.region.name]
    seen = ", ".join([*extra, *known]) or "nothing"
    yield stage.found(
        "the VMM must know",
        seen,
        "map and move stolen time",
        hypervisor="PADDR, STATE_SIZE, STATE",
        guest="nothing",
    )
    duties = [
        f"allocate and map {memory.region.name}"
        for memory in probe.machine.map.memories
        if memory not in probe.machine.memories
    ]
    given = stage.software(MEMORY).given(probe, 0)
    if given is not None:
        duties.append("keep and check an address a vCPU")
    yield stage.found(
        "the hypervisor must",
        ", ".join(duties) or "write where the VMM says",
        "write where the VMM says",
        hypervisor="allocate and map stolen time",
        guest="keep and check an address a vCPU",
    )


def device_of(probe: Probe) -> PvTimeDevice | None:
    """Return the hypervisor's device; None where the hypervisor does not provide the memory."""
    placement = probe.machine.placement
    return placement.device if isinstance(placement, HypervisorPlacement) else None


def attributes(device: PvTimeDevice | None) -> list[str]:
    """Return the names of the groups whose attribute user space can get."""
    found = []
    for group in PvTimeGroup if device is not None else ():
        try:
            assert device is not None
            device.get_attr(group, 0)
        except PvTimeDeviceError:
            continue
        found.append(group.name)
    return found


SCENARIO: Final = Scenario(
    "memory",
    "how much memory stolen time needs, who provides it, and who must know of it",
    tell,
    (claims.KERNEL_MEMORY, claims.ENCAPSULATED, claims.AWARE, claims.ABI),
)
