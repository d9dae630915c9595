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
from pvtime.scenario.env import ScenarioEnv
from pvtime.scenario.events import Event, Step
from pvtime.scenario.guest_side import GuestSide, signed
from pvtime.scenario.model import Scenario
from pvtime.steal.hypervisor import HypervisorPlacement, PvTimeDevice

__all__ = ["SCENARIO", "attributes", "device_of"]

MEMORY: Final = RAM_BASE + (16 << 20)
MOVED_REGION: Final = Region(STOLEN_TIME.name, STOLEN_TIME.base + (1 << 20), STOLEN_TIME.size)
VCPUS: Final = 3
KIB: Final = 1024


def events(env: ScenarioEnv) -> Iterator[Event]:
    """Look at what a machine with three vCPUs has, what it answers, and what its parts can be asked."""
    kernel = env.guest_side(MEMORY)
    with env.boot(VCPUS) as probe:
        at = [kernel.enable(probe, index) for index in range(VCPUS)]
        yield Step("The structures are at " + ", ".join(f"{ipa:#x}" for ipa in at) + ".")
        yield from _size(env, probe, kernel, at)
        yield from _who(env, probe)
        base = at[0]
    with env.boot(1, stolen_time=MOVED_REGION) as probe:
        moved = env.guest_side(MEMORY + 4096).enable(probe, 0)
    yield Step(
        f"With the VMM's region at {MOVED_REGION.base:#x} instead of {STOLEN_TIME.base:#x}, and the guest's "
        f"memory at {MEMORY + 4096:#x} instead of {MEMORY:#x}, vCPU 0's structure is at {moved:#x} instead "
        f"of {base:#x}."
    )
    chooser = {MOVED_REGION.base: "the VMM", MEMORY + 4096: "the guest"}.get(moved, "nobody")
    yield env.finding("who chooses the address", chooser, "the VMM", guest="the guest")


def _size(env: ScenarioEnv, probe: Probe, kernel: GuestSide, at: list[int]) -> Iterator[Event]:
    machine = probe.machine
    beside = [memory for memory in machine.map.memories if memory is not machine.memory]
    reserved = sum(memory.size for memory in beside)
    if kernel.guest_provides:
        below = [step for step in (8, 16, 32, 64) if _accepted(probe, kernel, kernel.area_of(VCPUS) + step)]
        stride = f"{min(below)} bytes, any place that is aligned so"
        fixed = f"{STRUCTURE_STRIDE} bytes, any place that is aligned so"
        yield Step(f"Of addresses that are 8, 16, 32, 64 bytes further, those are accepted: {below}.")
    else:
        (distance,) = {second - first for first, second in itertools.pairwise(at)}
        stride = f"{distance} bytes, one after the other"
        fixed = f"{STRUCTURE_STRIDE} bytes, one after the other"
    yield env.finding(
        "memory per vCPU as ABI", stride, f"{STRUCTURE_STRIDE} bytes, one after the other", guest=fixed
    )
    yield Step(f"Beside RAM the machine has {reserved} bytes of memory.")
    observed = f"{reserved // KIB} KiB" if reserved else "none"
    yield env.finding("memory set aside beside RAM", observed, "64 KiB", guest="none")
    if not beside:
        owner = "the guest"
    else:
        owner = "the VMM" if all(memory in machine.memories for memory in beside) else "the hypervisor"
    yield env.finding(
        "who provides the memory", owner, "the VMM", hypervisor="the hypervisor", guest="the guest"
    )


def _accepted(probe: Probe, kernel: GuestSide, address: int) -> bool:
    """Whether vCPU 0 may have its structure there."""
    kernel.disable(probe, 0)
    return kernel.set(probe, 0, address | 1) == 0


def _who(env: ScenarioEnv, probe: Probe) -> Iterator[Event]:
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
    yield env.finding("the guest must know", ", ".join(calls), "PV_TIME_ST", guest="SET, GET")
    known = attributes(device_of(probe))
    mine = [memory.region.name for memory in probe.machine.memories]
    yield Step(
        f"The VMM maps, saves and moves: {', '.join(mine)}. Attributes that it can get: {known or 'none'}."
    )
    extra = [f"map and move {name}" for name in mine if name != probe.machine.memory.region.name]
    observed = ", ".join([*extra, *known]) or "nothing"
    yield env.finding(
        "the VMM must know",
        observed,
        "map and move stolen time",
        hypervisor="PADDR, STATE_SIZE, STATE",
        guest="nothing",
    )
    duties = [
        f"allocate and map {memory.region.name}"
        for memory in probe.machine.map.memories
        if memory not in probe.machine.memories
    ]
    given = env.guest_side(MEMORY).registered(probe, 0)
    if given is not None:
        duties.append("keep and check an address a vCPU")
    yield env.finding(
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
    events,
    (claims.KERNEL_MEMORY, claims.ENCAPSULATED, claims.AWARE, claims.ABI),
)
