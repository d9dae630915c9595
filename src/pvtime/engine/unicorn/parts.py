# SPDX-License-Identifier: GPL-2.0-or-later
"""What the embedded engine makes of a machine before it runs: vCPUs with their structures, and a CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from pvtime.abi.pvtime_device import PvTimeGroup, PvTimePaddr
from pvtime.engine.unicorn.choice import make_core
from pvtime.engine.unicorn.core import Core, CoreConfig
from pvtime.engine.unicorn.counter import GuestCounter
from pvtime.engine.unicorn.ticker import Ticker
from pvtime.engine.unicorn.vcpu import Vcpu
from pvtime.machine.device import MmioDevice
from pvtime.machine.gicv2 import GicV2
from pvtime.machine.machine import Machine
from pvtime.machine.memory import GuestMemory
from pvtime.machine.timer import PHYSICAL_TIMER_PPI, VcpuTimer
from pvtime.steal.account import Account
from pvtime.steal.device import PvTimeDevice
from pvtime.steal.placement import Placement, PlacementName

__all__ = ["DEFAULT_CPU", "Parts", "assemble"]

DEFAULT_CPU: Final = "cortex-a72"

_FIRST_PPI = 16


@dataclass(frozen=True)
class Parts:
    """A machine, and what executes it."""

    machine: Machine
    gic: GicV2
    vcpus: list[Vcpu]
    pv_time: PvTimeDevice | None
    """The hypervisor's device, where it provides the structures."""
    core: Core
    ticker: Ticker
    """Ends the core's runs."""
    counter: GuestCounter


def assemble(machine: Machine, options: Mapping[str, str], irq_changed: Callable[[int, bool], None]) -> Parts:
    """Make the parts of an engine.

    :param irq_changed: called with a vCPU's index and the new level of its IRQ input.
    :raises UsageError: an unknown CPU model or option.
    :raises EngineError: the library's internals were asked for and cannot be used.
    """
    gic = GicV2(machine.config.vcpus, on_change=irq_changed)
    pv_time = _pv_time(machine)
    vcpus = [_make_vcpu(machine, gic, *each) for each in enumerate(_place_stolen_time(machine, pv_time))]
    devices: list[MmioDevice] = [gic.distributor, gic.cpu_interface, machine.console, machine.agent]
    core = make_core(options, CoreConfig(machine.config.cpu or DEFAULT_CPU, machine.map.memories, devices))
    return Parts(machine, gic, vcpus, pv_time, core, Ticker(core.kick), GuestCounter())


def _pv_time(machine: Machine) -> PvTimeDevice | None:
    """Return the hypervisor's device, with its memory, where it is to provide the structures."""
    if machine.config.placement is not PlacementName.HYPERVISOR:
        return None

    def provide(base: int, size: int) -> GuestMemory:
        return machine.map.add(GuestMemory(base, size, machine.config.stolen_time.name))

    device = PvTimeDevice(machine.config.vcpus, provide)
    base = machine.config.stolen_time.base.to_bytes(8, "little")
    device.set_attr(PvTimeGroup.PADDR, PvTimePaddr.ST, base)
    return device


def _place_stolen_time(machine: Machine, pv_time: PvTimeDevice | None) -> list[Placement | None]:
    """Return every vCPU's structure."""
    if pv_time is None:
        return machine.place_stolen_time()
    config = machine.config
    return [None if index in config.no_pvtime else pv_time.placement(index) for index in range(config.vcpus)]


def _make_vcpu(machine: Machine, gic: GicV2, index: int, placement: Placement | None) -> Vcpu:
    timer = VcpuTimer(partial(gic.set_ppi, index, _FIRST_PPI + PHYSICAL_TIMER_PPI))
    return Vcpu(index, Account(placement), timer, debts=machine.config.steal.debts(index))
