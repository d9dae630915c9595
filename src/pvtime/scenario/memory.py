# SPDX-License-Identifier: GPL-2.0-or-later
"""memory: how much memory stolen time needs, who provides it, and who must know about it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final

from pvtime.abi.pvtime import PvTime
from pvtime.abi.registration import RegisterCall
from pvtime.machine.layout import RAM_BASE, STOLEN_TIME, Region
from pvtime.machine.machine import Machine
from pvtime.probe.probe import Probe
from pvtime.scenario import claims
from pvtime.scenario.env import ScenarioEnv, device_attributes
from pvtime.scenario.events import Event, Step
from pvtime.scenario.guest_side import GuestSide, signed
from pvtime.scenario.model import Scenario

__all__ = ["SCENARIO"]

MEMORY: Final = RAM_BASE + (16 << 20)
MOVED_REGION: Final = Region(STOLEN_TIME.name, STOLEN_TIME.base + (1 << 20), STOLEN_TIME.size)
MOVED_MEMORY: Final = MEMORY + 0x1000
VCPUS: Final = 3
KIB: Final = 1024
HYPERVISOR: Final = "the hypervisor"
VMM: Final = "the VMM"
GUEST: Final = "the guest"


def events(env: ScenarioEnv) -> Iterator[Event]:
    """Inspect the memory of a machine with three vCPUs, and the interfaces of guest, VMM and hypervisor."""
    guest = env.guest_side(MEMORY)
    with env.boot(VCPUS) as probe:
        structures = [guest.enable(probe, index) for index in range(VCPUS)]
        yield Step("The structures are at " + ", ".join(f"{ipa:#x}" for ipa in structures) + ".")
        yield from _size(env, probe, guest, structures)
        yield from _interfaces(env, probe, guest, _provider(probe.machine, structures[0]))
    with env.boot(1, stolen_time=MOVED_REGION) as probe:
        moved = env.guest_side(MOVED_MEMORY).enable(probe, 0)
    yield Step(
        f"With the VMM's region at {MOVED_REGION.base:#x} instead of {STOLEN_TIME.base:#x}, and the guest's "
        f"memory at {MOVED_MEMORY:#x} instead of {MEMORY:#x}, vCPU 0's structure is at {moved:#x} instead of "
        f"{structures[0]:#x}."
    )
    chooser = {MOVED_REGION.base: VMM, MOVED_MEMORY: GUEST}.get(moved, "nobody")
    yield env.finding("who chooses the address", chooser, VMM, guest=GUEST)


def _provider(machine: Machine, structure: int) -> str:
    """Return the owner of the memory at an address: the VMM has RAM for the guest, and may have more."""
    if machine.memory.base <= structure < machine.memory.end:
        return GUEST
    return VMM if any(memory.base <= structure < memory.end for memory in machine.memories) else HYPERVISOR


def _size(env: ScenarioEnv, probe: Probe, guest: GuestSide, structures: list[int]) -> Iterator[Event]:
    if guest.guest_provides:
        steps = [step for step in (8, 16, 32, 64) if _accepted(probe, guest, guest.area_of(VCPUS) + step)]
        yield Step(f"Of addresses that are 8, 16, 32 and 64 bytes further, these are accepted: {steps}.")
        size = f"{min(steps)} bytes, at any {min(steps)}-byte boundary"
    else:
        (stride,) = {second - first for first, second in itertools.pairwise(structures)}
        size = f"{stride} bytes, contiguous"
    yield env.finding(
        "memory per vCPU as ABI",
        size,
        "64 bytes, contiguous",
        guest="64 bytes, at any 64-byte boundary",
    )
    reserved = sum(memory.size for memory in probe.machine.map.memories) - probe.machine.memory.size
    yield Step(f"Beside RAM the machine has {reserved} bytes of memory.")
    reserved_kib = f"{reserved // KIB} KiB" if reserved else "none"
    yield env.finding("memory set aside beside RAM", reserved_kib, "64 KiB", guest="none")


def _accepted(probe: Probe, guest: GuestSide, address: int) -> bool:
    """Register another address for vCPU 0; return whether it is accepted."""
    guest.disable(probe, 0)
    return guest.set(probe, 0, address | 1) == 0


def _interfaces(env: ScenarioEnv, probe: Probe, guest: GuestSide, provider: str) -> Iterator[Event]:
    yield env.finding("who provides the memory", provider, VMM, hypervisor=HYPERVISOR, guest=GUEST)
    calls = ", ".join(
        name
        for name, features, function in (
            ("PV_TIME_ST", PvTime.FEATURES, PvTime.ST),
            ("SET", RegisterCall.FEATURES, RegisterCall.SET),
            ("GET", RegisterCall.FEATURES, RegisterCall.GET),
        )
        if signed(probe.call(0, features, function)[0]) == 0
    )
    yield Step(f"The guest is offered: {calls}.")
    yield env.finding("the guest must know", calls, "PV_TIME_ST", guest="SET, GET")
    attributes = ", ".join(device_attributes(probe))
    regions = ", ".join(memory.region.name for memory in probe.machine.memories)
    yield Step(
        f"The VMM maps, saves and moves: {regions}. Attributes that it can get: {attributes or 'none'}."
    )
    duty = attributes or ("map and move stolen time" if provider == VMM else "nothing")
    yield env.finding(
        "the VMM must know",
        duty,
        "map and move stolen time",
        hypervisor="PADDR, STATE_SIZE, STATE",
        guest="nothing",
    )
    duty = "allocate and map stolen time" if provider == HYPERVISOR else "write where the VMM says"
    if guest.registered(probe, 0) is not None:
        duty = "keep and check an address per vCPU"
    yield env.finding(
        "the hypervisor must",
        duty,
        "write where the VMM says",
        hypervisor="allocate and map stolen time",
        guest="keep and check an address per vCPU",
    )


SCENARIO: Final = Scenario(
    "memory",
    "how much memory stolen time needs, who provides it, and who must know of it",
    events,
    (claims.KERNEL_MEMORY, claims.ENCAPSULATED, claims.AWARE, claims.ABI),
)
