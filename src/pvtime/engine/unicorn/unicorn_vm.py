# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine on the emulated CPU, before it runs: vCPUs with structures, interrupt controller, core."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, TypeAlias

from pvtime.engine.base import counter_rate
from pvtime.engine.unicorn.code_cache import CODE_CACHE_SIZE
from pvtime.engine.unicorn.core import Core, CoreConfig, TrapHandler
from pvtime.engine.unicorn.cores import make_core
from pvtime.engine.unicorn.counter import GuestCounter
from pvtime.engine.unicorn.mistakes import account_maker
from pvtime.engine.unicorn.vcpu import UnicornVcpu
from pvtime.inject.schedule import Schedule
from pvtime.machine.gic import GicVersion, choose_emulated
from pvtime.machine.gicv2 import GicV2
from pvtime.machine.gicv3 import GicV3
from pvtime.machine.machine import Machine
from pvtime.machine.memory import check_memory_size
from pvtime.machine.timer import PHYSICAL_TIMER_PPI, CounterRate, VcpuTimer
from pvtime.records import dataclass
from pvtime.steal.account import Account

__all__ = ["DEFAULT_CPU", "CoreMaker", "EmulatedGic", "UnicornVm", "build_vm"]

EmulatedGic: TypeAlias = GicV2 | GicV3

CoreMaker: TypeAlias = Callable[[Mapping[str, str], CoreConfig], Core]

DEFAULT_CPU: Final = "cortex-a72"

_FIRST_PPI = 16


@dataclass(frozen=True)
class UnicornVm:
    """A machine and the parts that execute it."""

    machine: Machine
    gic: EmulatedGic
    vcpus: list[UnicornVcpu]
    core: Core
    counter: GuestCounter

    def stop_counter(self, since: int, until: int) -> None:
        """Have the guest's counter stand still from ``since`` to ``until``, in ns; no vCPU is on the CPU.

        A guest whose clock went on while it was paused found its watchdog expired.
        """
        ticks = self.counter.rate.ticks(until) - self.counter.rate.ticks(since)
        self.counter.stop(ticks)
        contexts = [vcpu.context for vcpu in self.vcpus if vcpu.context is not None]
        self.core.contexts.move_counter(self.counter.offset, contexts)
        for vcpu in self.vcpus:
            vcpu.timer.delay(ticks)


def build_vm(
    machine: Machine,
    options: Mapping[str, str],
    steal: Schedule,
    *,
    irq_changed: Callable[[int, bool], None],
    traps: TrapHandler,
    now: Callable[[], int],
    core_maker: CoreMaker = make_core,
) -> UnicornVm:
    """Build the parts that execute a machine.

    :param steal: the steal to inject.
    :param irq_changed: called with a vCPU's index and the new level of its IRQ input.
    :param traps: handles the traps of the guest.
    :param now: CLOCK_MONOTONIC, in ns.
    :raises UsageError: an unknown CPU model or option, a schedule for vCPUs that the machine lacks, too
        little memory on this host, or a kernel with pages that the CPU model lacks.
    :raises EngineError: the library's internals were asked for and cannot be used.
    """
    check_memory_size(machine.config.memory, CODE_CACHE_SIZE)
    steal.check_vcpus(machine.config.vcpus)
    rate = counter_rate(options)
    make_account = account_maker(options)
    gic = _make_gic(machine, irq_changed)
    vcpus = [
        _build_vcpu(gic, index, make_account(structure), steal, now, rate)
        for index, structure in enumerate(machine.structures())
    ]
    devices = [*gic.devices, machine.console, machine.agent, *machine.disks]
    model = machine.config.cpu or DEFAULT_CPU
    core = core_maker(
        options, CoreConfig(model, machine.map.memories, devices, traps, rate, gicv3=isinstance(gic, GicV3))
    )
    machine.config.kernel.check_page_size(core.page_sizes, f"the emulated CPU {core.model}")
    return UnicornVm(machine, gic, vcpus, core, GuestCounter(now, rate))


def _make_gic(machine: Machine, on_change: Callable[[int, bool], None]) -> EmulatedGic:
    """Make the interrupt controller that the machine's user asks for.

    :raises UsageError: it has no room for all vCPUs.
    """
    config = machine.config
    if choose_emulated(config.gic, config.vcpus) is GicVersion.V2:
        return GicV2(config.vcpus, on_change)
    return GicV3(machine.mpidrs, on_change)


def _build_vcpu(
    gic: EmulatedGic,
    index: int,
    account: Account,
    steal: Schedule,
    now: Callable[[], int],
    rate: CounterRate,
) -> UnicornVcpu:
    timer = VcpuTimer(partial(gic.set_ppi, index, _FIRST_PPI + PHYSICAL_TIMER_PPI), now, rate)
    return UnicornVcpu(
        index,
        account,
        timer,
        pauses_steal=steal.pauses,
        pending_steal=steal.pending(index),
    )
