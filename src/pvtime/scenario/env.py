# SPDX-License-Identifier: GPL-2.0-or-later
"""The environment of a scenario: an engine, a placement, and guests that run the probe."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from pvtime.abi.pvtime_device import PvTimeGroup
from pvtime.engine.base import COUNTER_FREQUENCY, Engine, VcpuSample
from pvtime.engine.registry import Build
from pvtime.errors import PvTimeDeviceError
from pvtime.machine.machine import Machine
from pvtime.probe.affinity import one_cpu
from pvtime.probe.guest import boot, guest
from pvtime.probe.mailbox_client import ProbeError
from pvtime.probe.probe import Probe
from pvtime.scenario.events import Finding
from pvtime.scenario.guest_side import GuestSide
from pvtime.steal.hypervisor import HypervisorPlacement, PvTimeDevice
from pvtime.steal.placement import PlacementName

__all__ = [
    "EVENT_TIMEOUT_S",
    "MIN_STOLEN_NS",
    "ScenarioEnv",
    "await_loads",
    "await_stolen",
    "await_truth",
    "count_text",
    "device_attributes",
    "device_of",
    "fate_of_count",
    "re_enable",
]

MIN_STOLEN_NS: Final = 20_000_000
"""More than can be stolen between two calls."""

EVENT_TIMEOUT_S: Final = 120
"""Longest wait for an event, in seconds; it takes milliseconds."""

T = TypeVar("T")


@dataclass(frozen=True)
class ScenarioEnv:
    """One placement on one engine."""

    build: Build
    """Makes the engine.

    :raises UsageError: the engine lacks the placement, or an option.
    """
    placement: PlacementName
    options: Mapping[str, str] = field(default_factory=dict)
    """Of the engine."""

    def with_counter(self, hz: int) -> ScenarioEnv:
        """Return a host like this one whose counter has ``hz``."""
        return replace(self, options={**self.options, COUNTER_FREQUENCY: str(hz)})

    def engine(self, machine: Machine) -> Engine:
        """Make the engine of a machine.

        :raises UsageError: the engine lacks the placement, or an option.
        """
        return self.build(machine, self.options)

    @contextlib.contextmanager
    def boot(self, vcpus: int = 2, **changes: Any) -> Iterator[Probe]:
        """Start a guest; all vCPUs poll, and steal from each other, as they share one CPU of the host.

        :param changes: fields of :class:`MachineConfig` to replace.
        :raises UsageError: the configuration is impossible, or the engine cannot run it.
        """
        config = replace(guest(vcpus), placement=self.placement, **changes)
        with contextlib.ExitStack() as stack:
            with one_cpu():
                probe = stack.enter_context(boot(self.engine, config))
            for index in range(1, vcpus):
                probe.start_vcpu(index)
            yield probe

    def guest_side(self, base: int) -> GuestSide:
        """Return software in the guest that wants stolen time.

        :param base: address of its memory for the structures, where the guest provides it.
        """
        return GuestSide(self.placement, base)

    def finding(self, topic: str, observed: str, expected: str, **otherwise: str) -> Finding:
        """Return a finding.

        :param otherwise: expectations for individual placements.
        """
        return Finding(topic, observed, otherwise.get(self.placement.value, expected))


def await_truth(probe: Probe, what: str, happened: Callable[[list[VcpuSample]], bool]) -> list[VcpuSample]:
    """Wait until ``what`` has happened by the host's figures; return each vCPU's.

    :raises ProbeError: it takes too long.
    """
    end = time.monotonic() + EVENT_TIMEOUT_S
    while not happened(samples := probe.engine.sample()):
        if time.monotonic() > end:
            raise ProbeError(f"not within {EVENT_TIMEOUT_S} s: {what}")
        probe.engine.wait(0.001)
    return samples


def await_stolen(probe: Probe, *vcpus: int, ns: int = MIN_STOLEN_NS) -> list[VcpuSample]:
    """Wait until vCPUs have ``ns`` of stolen time since they enabled it; return every vCPU's figures."""
    return await_truth(probe, "stolen time", lambda now: all(now[index].truth_ns >= ns for index in vcpus))


def await_loads(probe: Probe, vcpu: int, loads: int) -> list[VcpuSample]:
    """Wait for a number of loads of a vCPU; return every vCPU's figures."""
    enough = probe.engine.sample()[vcpu].loads + loads
    return await_truth(probe, f"{loads} loads of vCPU {vcpu}", lambda now: now[vcpu].loads >= enough)


def re_enable(probe: Probe, vcpu: int, ask: Callable[[], T]) -> tuple[T, VcpuSample, str]:
    """Have a vCPU request stolen time again; return the answer, its figures, and the fate of its count."""
    before = probe.engine.sample()[vcpu]
    answer = ask()
    after = probe.engine.sample()[vcpu]
    return answer, after, fate_of_count(before, after)


def fate_of_count(before: VcpuSample, after: VcpuSample) -> str:
    """Return whether a count began anew between two samples: it is no more than was stolen since."""
    from_zero = after.count_ns <= after.stolen_ns - before.stolen_ns
    return "starts from zero" if from_zero else "continues"


def count_text(sample: VcpuSample) -> str:
    """Return the count in a vCPU's structure, or that nobody can read it there."""
    return "absent" if sample.structure_ns is None else f"{sample.structure_ns} ns"


def device_of(probe: Probe) -> PvTimeDevice | None:
    """Return the hypervisor's device; None where the hypervisor does not provide the memory."""
    placement = probe.machine.placement
    return placement.device if isinstance(placement, HypervisorPlacement) else None


def device_attributes(probe: Probe) -> list[str]:
    """Return the names of the attributes that the VMM can get from the hypervisor's device, if any."""
    device = device_of(probe)
    return [] if device is None else [group.name for group in PvTimeGroup if _has(device, group)]


def _has(device: PvTimeDevice, group: PvTimeGroup) -> bool:
    try:
        device.get_attr(group, 0)
    except PvTimeDeviceError:
        return False
    return True
